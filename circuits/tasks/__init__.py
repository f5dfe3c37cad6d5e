"""Tasks: what a circuit is looked for on, as prompt pairs in the tokens of a model and a metric of its answers."""
