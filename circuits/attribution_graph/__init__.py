"""Feature circuits: attribution graphs over transcoder latents, from a prompt's tokens to its logits."""
