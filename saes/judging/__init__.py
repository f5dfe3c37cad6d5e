"""Judging an SAE further: its decoder, its agreement with known concepts, its twins, its leftovers."""
