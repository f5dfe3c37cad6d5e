"""Which sources of an attribution graph matter to its logits, and what part of it is errors.

The share of a source in a target is its edge's absolute value over the sum of the target's; influence is the logits'
probabilities passed down along shares, over paths of every length: p (A + A² + …). Definitions, thresholds and scores
are those of Ameisen et al. 2025 as circuit-tracer computes them, so numbers compare.

Targets are latents, then logits; sources are the same latents, then errors, then embeddings.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Scores(NamedTuple):
    """How much of a graph is explained: 1 if errors have no part in it."""

    replacement: float
    """Embeddings' share of the influence that embeddings and errors have."""
    completeness: float
    """The mean share, in what goes into a node, of what is not error; weighted by influence. Embeddings and errors,
    into which nothing goes, count as 1."""


def shares(edges: Float[Tensor, "target source"]) -> Float[Tensor, "target source"]:
    """Absolute edges, each row divided by its sum."""
    sizes = edges.abs()
    return sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(edges.dtype).tiny)


def influence(
    shares: Float[Tensor, "target source"], probabilities: Float[Tensor, " logit"]
) -> Float[Tensor, " source"]:
    """The influence of every source on the logits, which are the last targets; the others are the first sources."""
    n_latents = len(shares) - len(probabilities)
    passed = probabilities @ shares[n_latents:]
    total = passed.clone()
    while passed[:n_latents].any():
        passed = passed[:n_latents] @ shares[:n_latents]
        total += passed
    return total


def scores(edges: Float[Tensor, "target source"], probabilities: Float[Tensor, " logit"], n_embeddings: int) -> Scores:
    """Replacement and completeness score of a whole graph."""
    part = shares(edges)
    reached = influence(part, probabilities)
    n_latents, n_sources = len(edges) - len(probabilities), len(reached)
    errors = slice(n_latents, n_sources - n_embeddings)
    of_errors, of_embeddings = reached[errors].sum(), reached[n_sources - n_embeddings :].sum()
    on_targets = torch.cat([reached[:n_latents], probabilities])
    in_error = (part[:, errors].sum(1) * on_targets).sum()
    return Scores(
        replacement=(of_embeddings / (of_embeddings + of_errors)).item(),
        completeness=(1 - in_error / (reached.sum() + probabilities.sum())).item(),
    )


def most(values: Float[Tensor, "..."], share: float) -> Bool[Tensor, "..."]:
    """The largest values, as few as have this share of their sum; zeros are never among them."""
    ordered, order = values.flatten().sort(descending=True)
    before = ordered.cumsum(0) - ordered
    chosen = torch.zeros_like(order, dtype=torch.bool)
    chosen[order] = (before < share * ordered.sum()) & (ordered > 0)
    return chosen.view_as(values)
