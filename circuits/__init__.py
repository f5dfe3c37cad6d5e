"""Circuits: tasks, the computational graph, edge scores and proofs. Stands on `workbench` and `saes`."""
