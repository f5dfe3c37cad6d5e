"""Tinytown: a small English-like language whose every concept is known, and the model and SAEs trained on it."""

from pathlib import Path

ROOM = Path(__file__).parent
MODEL_DIR = ROOM / "model"
SAE_DIR = ROOM / "saes"
