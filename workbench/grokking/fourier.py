"""Functions on the numbers modulo p as sums of waves, and which waves a model uses.

Frequency k = 1 … (p-1)/2 stands for cos(w a) and sin(w a) with w = 2πk/p. The Fourier basis is orthonormal, so norms
and variances can be read off in it (Parseval). Source: Nanda et al. 2023, section 4.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.grokking.model import Adder, all_pairs, as_tokens, hooked

SHARE = 0.02
"""A frequency is a key frequency if its wave explains this share of the variance of the logits."""
SINGLE = 0.85
"""A neuron belongs to a frequency that explains this share of its variance, as in the paper."""


def basis(p: int) -> Float[Tensor, "p p"]:
    """The orthonormal Fourier basis, a row each: the constant, then cos and sin of frequency 1, 2, …, (p-1)/2."""
    angles = 2 * torch.pi / p * torch.outer(torch.arange(1, (p + 1) // 2), torch.arange(p)).double()
    waves = torch.stack([angles.cos(), angles.sin()], dim=1).flatten(0, 1) * (2 / p) ** 0.5
    return torch.cat([torch.full((1, p), p**-0.5, dtype=torch.double), waves])


def frequency_norms(vectors: Float[Tensor, "p dim"]) -> Float[Tensor, " frequency"]:
    """How much of a table of vectors, one a number, turns with each frequency: the norm of its cos and sin parts."""
    return _by_frequency((basis(len(vectors)) @ vectors.double()).square().sum(1)).sqrt()


def plane(vectors: Float[Tensor, "p dim"], k: int) -> Float[Tensor, "p 2"]:
    """A table of vectors, one a number, seen in the plane of its cos and sin parts of frequency k.

    The first direction is that of the cos part, the second that of what the sin part has besides. If the vectors turn
    with that frequency, the numbers stand on a circle.
    """
    parts = basis(len(vectors))[[2 * k - 1, 2 * k]] @ vectors.double()
    directions, triangle = torch.linalg.qr(parts.T)
    directions = directions * triangle.diagonal().sign()
    return (vectors.double() - vectors.double().mean(0)) @ directions


def _by_frequency(parts: Float[Tensor, "p *rest"]) -> Float[Tensor, "frequency *rest"]:
    """The sum of the cos and the sin part of each frequency; the constant is left out."""
    return parts[1:].unflatten(0, (-1, 2)).sum(1)


def logit_spectrum(logits: Float[Tensor, "p p p"]) -> Float[Tensor, "p p"]:
    """The norms over the answers c of the logits `[a, b, c]` in the Fourier basis of a and that of b.

    The mean over the answers, which changes no probability, is left out.
    """
    f = basis(len(logits))
    return torch.einsum("ia,jb,abc->ijc", f, f, centred(logits)).norm(dim=2)


def explained(logits: Float[Tensor, "p p p"]) -> Float[Tensor, " frequency"]:
    """The share of the variance of the logits `[a, b, c]` that cos(w(a + b - c)) explains, for each frequency.

    The variance is over all a, b and answers c, about the mean over the answers. The waves are orthogonal, so the
    shares add up to at most 1.
    """
    return coefficients(logits).square() * (len(logits) ** 3 / 2) / centred(logits).square().sum()


def coefficients(logits: Float[Tensor, "p p p"]) -> Float[Tensor, " frequency"]:
    """The least-squares coefficients of cos(w(a + b - c)) in the logits `[a, b, c]`, for each frequency."""
    p = len(logits)
    a, b, c = torch.meshgrid(*[torch.arange(p)] * 3, indexing="ij")
    by_residue = torch.zeros(p, dtype=torch.double)
    by_residue.index_add_(0, ((a + b - c) % p).flatten(), centred(logits).flatten())
    return basis(p)[1::2] @ by_residue * (2 / p) ** 0.5 / p**2


def centred(logits: Float[Tensor, "*pair p"]) -> Float[Tensor, "*pair p"]:
    """Without the mean over the answers, in double precision."""
    return logits.double() - logits.double().mean(-1, keepdim=True)


def key_frequencies(logits: Float[Tensor, "p p p"]) -> tuple[int, ...]:
    """The frequencies whose wave explains at least `SHARE` of the variance of the logits, strongest first."""
    shares = explained(logits)
    return tuple(int(k) + 1 for k in shares.argsort(descending=True) if shares[k] >= SHARE)


@dataclass(frozen=True)
class Neurons:
    """To which frequency each neuron answers."""

    frequency: Int[Tensor, " neuron"]
    share: Float[Tensor, " neuron"]
    """The share of its variance over all sums that polynomials of degree two in cos and sin of that frequency, of a and
    of b, explain."""

    @property
    def clustered(self) -> float:
        """The share of the neurons that answer to a single frequency."""
        return (self.share >= SINGLE).double().mean().item()


@torch.no_grad()
def neurons(adder: Adder) -> Neurons:
    """Take the activations of all neurons at `=` apart by frequency."""
    p, f = adder.p, basis(adder.p)
    site = "blocks.0.mlp.hook_post"
    run = hooked(adder).run(as_tokens(all_pairs(p), p), capture=[site])
    parts = torch.einsum("ia,jb,abn->ijn", f, f, run[site][:, -1].unflatten(0, (p, p)).double()).square()
    n = (p - 1) // 2
    products = parts[1:, 1:].unflatten(0, (n, 2)).unflatten(2, (n, 2)).sum((1, 3))  # [frequency frequency neuron]
    each = _by_frequency(parts[:, 0]) + _by_frequency(parts[0]) + products.diagonal().T
    share, best = (each / (parts.sum((0, 1)) - parts[0, 0]).clamp_min(1e-30)).max(0)
    return Neurons(best + 1, share)
