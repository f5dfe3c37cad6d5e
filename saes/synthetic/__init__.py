"""A benchmark of SAEs on data whose every feature is known: named worlds, a seeded sampler, scores."""
