"""Sparse autoencoders: architectures, training, evaluation, the SAELens format, the feature index."""
