"""Tinytown: a small English-like language whose every concept is known, and what was trained on it: model and SAEs."""

from pathlib import Path

ROOM = Path(__file__).parent
MODEL_DIR = ROOM / "model"
SAE_DIR = ROOM / "saes"
TRANSCODER_DIR = ROOM / "transcoders"
