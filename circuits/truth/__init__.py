"""Ground truth: models whose circuit is known, because their weights were compiled from a program or set by hand."""
