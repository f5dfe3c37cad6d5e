"""Indirect object identification: which head plays which role."""
