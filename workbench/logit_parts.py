"""The parts that a logit is the sum of: the terms of the residual stream, measured along the direction that it reads.

Instead of bringing every part through the final norm, and whatever norm stands behind its sublayer, the direction is
brought back through them, once (`FrozenNorm.pull`, `Output.pull`). A part is then a number times a number.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ModelError, SettingError
from workbench.model import HookedModel
from workbench.norms import FrozenNorm, freeze
from workbench.residual import Output, attention_output, mlp_output
from workbench.sites import expand

Parts = dict[str, Float[Tensor, "example ..."]]
"""By kind; the axes after the examples are the layer and what counts the parts in it."""

EMBEDDINGS = {"embedding": "hook_embed", "position": "hook_pos_embed"}
ATTENTION, MLP = "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out"
Z, V, PATTERN = "blocks.*.attn.hook_z", "blocks.*.attn.hook_v", "blocks.*.attn.hook_pattern"
NEURONS = "blocks.*.mlp.hook_post"


def side_by_side(parts: Parts) -> Float[Tensor, "example part"]:
    """All parts in one row for each example."""
    return torch.cat([values.reshape(len(values), -1) for values in parts.values()], dim=1)


@runtime_checkable
class Autoencoder(Protocol):
    """What is needed of an SAE: latents, and a decoder that is `latents @ W_dec` and a bias."""

    W_dec: Float[Tensor, "d_sae d"]

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


@dataclass
class Reading:
    """What the last position of some prompts says along one direction of the logits each."""

    model: HookedModel
    activations: dict[str, Tensor]
    """Captured at the sites that `sites_of` names."""
    direction: Float[Tensor, "example d_model"]
    """In the space that the unembedding reads."""

    @cached_property
    def norm(self) -> FrozenNorm:
        final = self.activations[f"blocks.{self.model.info.n_layers - 1}.hook_resid_post"][:, -1]
        return freeze(self.model.bridge.ln_final, final)

    @cached_property
    def covector(self) -> Float[Tensor, "example d_model"]:
        """The direction in the residual stream."""
        return self.norm.pull(self.direction)

    def along(self, written: Float[Tensor, "example d_model"]) -> Float[Tensor, " example"]:
        """What something in the residual stream adds to the logits."""
        return (written.float() * self.covector).sum(-1)

    def at(self, pattern: str, layer: int) -> Tensor:
        """The activation in a layer at the last position; of patterns, the last query's."""
        activation = self.activations[pattern.replace("*", str(layer))]
        return activation[:, :, -1] if pattern == PATTERN else activation[:, -1]

    def each_layer(self, part: Callable[[int], Tensor]) -> Float[Tensor, "example layer ..."]:
        return torch.stack([part(layer) for layer in range(self.model.info.n_layers)], dim=1)

    # The terms of the stream

    def embeddings(self) -> Parts:
        sites = {kind: site for kind, site in EMBEDDINGS.items() if site in self.activations}
        return {
            kind: self.along(self.activations[site][:, -1].expand_as(self.covector)) for kind, site in sites.items()
        }

    def attention(self) -> Float[Tensor, "example layer"]:
        return self.each_layer(lambda layer: self.along(self.at(ATTENTION, layer)))

    def mlps(self) -> Float[Tensor, "example layer"]:
        return self.each_layer(lambda layer: self.along(self.at(MLP, layer)))

    # The terms of a sublayer

    def heads_through(self, layer: int) -> Output:
        return attention_output(self.model, layer, self.at(Z, layer), self.at(ATTENTION, layer))

    def neurons_through(self, layer: int) -> Output:
        return mlp_output(self.model, layer, self.at(NEURONS, layer), self.at(MLP, layer))

    def attention_bias(self) -> Float[Tensor, "example layer"]:
        return self.each_layer(lambda layer: self.heads_through(layer).constant(self.covector))

    def per_head(self, layer: int) -> Float[Tensor, "example head d_head"]:
        """The direction at each head's output."""
        return self.heads_through(layer).pull(self.covector).unflatten(-1, self.at(Z, layer).shape[-2:])


def sites_of(model: HookedModel, by: str) -> list[str]:
    """The sites that splitting `by` reads. Raises `ModelError` if the model lacks one."""
    wanted = {"head": [Z], "source": [Z, V, PATTERN], "neuron": [NEURONS]}.get(by, [])
    for pattern in wanted:
        if pattern.replace("*", "0") not in model.sites:
            why = f"it has no {pattern}" if model.info.n_experts is None else "it is a mixture of experts"
            raise ModelError(f"the logits of {model.info.name} cannot be split by {by}: {why}")
    last = f"blocks.{model.info.n_layers - 1}.hook_resid_post"
    return [*(site for site in EMBEDDINGS.values() if site in model.sites), ATTENTION, MLP, *wanted, last]


def _layers(reading: Reading) -> Parts:
    return reading.embeddings() | {"layer": reading.attention() + reading.mlps()}


def _sublayers(reading: Reading) -> Parts:
    return reading.embeddings() | {"attention": reading.attention(), "MLP": reading.mlps()}


def _heads(reading: Reading) -> Parts:
    heads = reading.each_layer(lambda layer: (reading.at(Z, layer).float() * reading.per_head(layer)).sum(-1))
    return reading.embeddings() | {"head": heads, "attention bias": reading.attention_bias(), "MLP": reading.mlps()}


def _sources(reading: Reading) -> Parts:
    """Heads, each split over the positions that it attends to: pattern × value."""

    def sources(layer: int) -> Float[Tensor, "example head key"]:
        pattern, values = reading.at(PATTERN, layer).float(), reading.activations[V.replace("*", str(layer))].float()
        values = values.repeat_interleave(pattern.shape[1] // values.shape[2], dim=2)  # grouped queries share values
        return pattern * torch.einsum("ekhd,ehd->ehk", values, reading.per_head(layer))

    parts = {"head from": reading.each_layer(sources), "attention bias": reading.attention_bias()}
    return reading.embeddings() | parts | {"MLP": reading.mlps()}


def _neurons(reading: Reading) -> Parts:
    def neurons(layer: int) -> Float[Tensor, "example neuron"]:
        return reading.at(NEURONS, layer).float() * reading.neurons_through(layer).pull(reading.covector)

    bias = reading.each_layer(lambda layer: reading.neurons_through(layer).constant(reading.covector))
    parts = {"attention": reading.attention(), "neuron": reading.each_layer(neurons), "MLP bias": bias}
    return reading.embeddings() | parts


PARTS: dict[str, Callable[[Reading], Parts]] = {
    "layer": _layers,
    "sublayer": _sublayers,
    "head": _heads,
    "source": _sources,
    "neuron": _neurons,
}
"""What logits can be split by; besides, by the latents of an SAE."""


def latents(reading: Reading, sae: Autoencoder, site: str) -> Parts:
    """The latents of an SAE at a site, what it leaves unexplained, and the terms of the stream it does not stand for.

    In the residual stream they stand for all that was written before (zero here); in the output of a sublayer, for it.
    """
    x = reading.activations[site][:, -1]
    covector = reading.covector.to(sae.W_dec)
    with torch.no_grad():
        encoded = sae.encode(x.to(sae.W_dec))
        bias = sae.decode(torch.zeros_like(encoded))
        error = x.to(sae.W_dec) - encoded @ sae.W_dec - bias
        found = {
            "latent": encoded * (covector @ sae.W_dec.T),
            "SAE bias": (bias * covector).sum(-1),
            "SAE error": (error * covector).sum(-1),
        }
    order, here = reading.model.sites.index, reading.model.sites.index(site)

    def remains(term: str) -> bool:
        return order(term) > here if ".hook_resid_" in site else term != site

    def remaining(pattern: str, terms: Float[Tensor, "example layer"]) -> Float[Tensor, "example layer"]:
        kept = [remains(pattern.replace("*", str(layer))) for layer in range(terms.shape[1])]
        return terms * torch.tensor(kept, device=terms.device)

    rest = {kind: term for kind, term in reading.embeddings().items() if remains(EMBEDDINGS[kind])}
    rest |= {"attention": remaining(ATTENTION, reading.attention()), "MLP": remaining(MLP, reading.mlps())}
    return {kind: values.to(reading.covector) for kind, values in found.items()} | rest


def check_sae(model: HookedModel, sae: Autoencoder, site: str) -> str:
    """The full name of the site of an SAE. Raises `SettingError` if its latents are no terms of the stream there."""
    (site,) = expand(site, model.sites)
    if not re.fullmatch(r"blocks\.\d+\.hook_(resid_(pre|mid|post)|attn_out|mlp_out)", site):
        raise SettingError(f"{site} is not in the residual stream, nor what attention or an MLP adds to it")
    if sae.W_dec.shape[1] != model.info.d_model:
        raise SettingError(f"the SAE writes {sae.W_dec.shape[1]} numbers, but the stream has {model.info.d_model}")
    return site
