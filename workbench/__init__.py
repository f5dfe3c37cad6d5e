"""The model and what can be done to it: runs with edits, corpora, activations, analyses, figures."""
