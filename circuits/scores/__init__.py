"""Scores of edges: one way to estimate how much each matters a file."""
