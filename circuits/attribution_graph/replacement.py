"""The local replacement model: one run with every MLP taken apart into latents, a bias and an error.

Ameisen et al. 2025, "Circuit tracing": with attention patterns and norm scales held fixed, the pre-activation of a
latent and the logit of a token are linear in what active latents, errors and embeddings wrote. The transpose of that
linear map is applied here to many targets at once, [target, pos, d]: no autograd, no copies of the prompt.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.attribution_graph.frozen import Block, Frozen, Gradient, freeze, sites_to_freeze
from circuits.attribution_graph.transcoders import Transcoders, is_text, skip
from circuits.latents import encode
from saes.sae import SAE
from workbench.errors import SettingError
from workbench.model import HookedModel
from workbench.norms import FrozenNorm

GRADIENT = 2**21
"""Numbers in one gradient at a time: 8 MiB, of which some six exist at once."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A block, its MLP taken apart. Without a transcoder, the MLP's output is error altogether."""

    block: Block
    norm: FrozenNorm | None
    """Between the residual stream and what the transcoder reads; None if it reads that itself."""
    position: Int[Tensor, " latent"]
    """Where each active latent is; they are in order of position, then of index."""
    index: Int[Tensor, " latent"]
    activation: Float[Tensor, " latent"]
    reads: Float[Tensor, "latent d"]
    """Encoder columns."""
    writes: Float[Tensor, "latent d"]
    """Decoder rows times activations."""
    bias: Float[Tensor, " latent"]
    """The part of a pre-activation that does not come from the residual stream."""
    error: Float[Tensor, "pos d"]
    constant: Float[Tensor, "pos d"]
    """The decoder's bias, where the transcoder acts."""
    skip: Float[Tensor, "d d_in"] | None
    text: Bool[Tensor, " pos"]

    def start(self, chosen: slice) -> tuple[Gradient, Float[Tensor, " target"]]:
        """Gradients of latents' pre-activations with respect to the residual stream before the block; their biases.

        They cover the positions up to that of the last latent.
        """
        reads, position = self.reads[chosen], self.position[chosen]
        gradient = reads.new_zeros(len(reads), int(position[-1]) + 1, reads.shape[1])
        gradient[torch.arange(len(reads)), position] = reads
        gradient = gradient if self.norm is None else self.norm.first(gradient.shape[1]).pull(gradient)
        if self.block.parallel:
            return gradient, self.bias[chosen]
        gradient, bias = self._past_attention(gradient)
        return gradient, bias + self.bias[chosen]

    def sources(self, gradient: Gradient) -> tuple[Float[Tensor, "target latent"], Float[Tensor, "target pos"]]:
        """What latents and errors of this layer contribute to targets that have this gradient after the block."""
        latents = gradient.new_zeros(len(gradient), len(self.writes))
        for position in range(gradient.shape[1]):
            here = slice(*self._bounds[position : position + 2])
            latents[:, here] = gradient[:, position] @ self.writes[here].T
        return latents, _products(gradient, self.error)

    @cached_property
    def _bounds(self) -> list[int]:
        """The first latent of each position, and at the end their number."""
        return [0, *self.position.bincount(minlength=len(self.error)).cumsum(0).tolist()]

    def pull(self, gradient: Gradient) -> tuple[Gradient, Float[Tensor, " target"]]:
        """From after the block to before it; and what the constants of the block contribute."""
        bias = _products(gradient, self.constant).sum(1)
        skipped = self._past_skip(gradient)
        if self.block.parallel:
            before, constant = self._past_attention(gradient)
            return before + skipped, bias + constant
        before, constant = self._past_attention(gradient + skipped)
        return before, bias + constant

    def _past_attention(self, gradient: Gradient) -> tuple[Gradient, Float[Tensor, " target"]]:
        constant = _products(gradient, self._attention_constant).sum(1)
        return gradient + self.block.attention.pull(gradient), constant

    @cached_property
    def _attention_constant(self) -> Float[Tensor, "pos d"]:
        return self.block.attention.constant

    def _past_skip(self, gradient: Gradient) -> Gradient | float:
        if self.skip is None:
            return 0.0
        gradient = (gradient * self.text[: gradient.shape[1], None]) @ self.skip
        return gradient if self.norm is None else self.norm.first(gradient.shape[1]).pull(gradient)


def _products(gradient: Gradient, written: Float[Tensor, "all_pos d"]) -> Float[Tensor, "target pos"]:
    """What was written at each position times the gradient there, as far as that goes."""
    return torch.einsum("tpd,pd->tp", gradient, written[: gradient.shape[1]])


@dataclass(frozen=True, eq=False)
class Replacement:
    """The replacement model of one prompt; latents are numbered through all layers, the lowest first."""

    frozen: Frozen
    layers: tuple[Layer, ...]
    probabilities: Float[Tensor, " d_vocab"]
    """Of the token that follows the prompt, as the model itself has them."""
    before_unembed: Float[Tensor, " d"]
    """The normalised residual stream that the last logits are read from."""

    @property
    def n_positions(self) -> int:
        return len(self.frozen.embedding)

    @cached_property
    def starts(self) -> list[int]:
        """The number of each layer's first latent, and at the end the number of latents."""
        counts = torch.tensor([0, *(len(layer.index) for layer in self.layers)])
        return counts.cumsum(0).tolist()

    @property
    def n_sources(self) -> int:
        return self.starts[-1] + (len(self.layers) + 1) * self.n_positions

    @property
    def latents(self) -> Int[Tensor, "latent 3"]:
        """Layer, position and index of every active latent."""
        columns = [
            torch.stack([torch.full_like(layer.index, number), layer.position, layer.index], dim=1)
            for number, layer in enumerate(self.layers)
        ]
        return torch.cat(columns)

    @property
    def activations(self) -> Float[Tensor, " latent"]:
        """Of active latents; their pre-activations too."""
        return torch.cat([layer.activation for layer in self.layers])

    def directions(
        self, tokens: Int[Tensor, " logit"], against: int | None
    ) -> tuple[Float[Tensor, "logit d"], Float[Tensor, " logit"]]:
        """What makes tokens' logits, less that of the token `against` or the mean logit: unembedding and bias."""
        W_U, b_U = self.frozen.W_U, self.frozen.b_U
        base = (W_U.mean(1), b_U.mean()) if against is None else (W_U[:, against], b_U[against])
        return W_U[:, tokens].T - base[0], b_U[tokens] - base[1]

    def logits(self, tokens: Int[Tensor, " logit"], against: int | None) -> Float[Tensor, " logit"]:
        """Logits at the last position, before any soft cap, less that of `against` or their mean."""
        directions, bias = self.directions(tokens, against)
        return directions @ self.before_unembed + bias

    def to_logits(self, tokens: Int[Tensor, " logit"], against: int | None) -> tuple[Tensor, Tensor]:
        """What every source contributes to `logits`, [logit, source], and what biases do, [logit]."""
        directions, bias = self.directions(tokens, against)
        gradient = directions.new_zeros(len(directions), self.n_positions, directions.shape[1])
        gradient[:, -1] = directions
        final = self.frozen.final
        return self._sources(len(self.layers), final.pull(gradient), bias + directions @ final.bias)

    def to_latents(self, only: Bool[Tensor, " latent"]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The same for active latents' pre-activations, in batches from the last layer down to the first.

        Yields the batch's latents, [target, source] and [target]; batches with none of the latents in `only` are
        passed over.
        """
        size = max(1, GRADIENT // self.frozen.embedding.numel())
        for number in reversed(range(len(self.layers))):
            first, count = self.starts[number], len(self.layers[number].index)
            for start in range(0, count, size):
                stop = min(start + size, count)
                if only[first + start : first + stop].any():
                    gradient, bias = self.layers[number].start(slice(start, stop))
                    yield slice(first + start, first + stop), *self._sources(number, gradient, bias)

    def _sources(self, number: int, gradient: Gradient, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Contributions to targets whose gradient before block `number` is given: latents, errors, embeddings."""
        rows = gradient.new_zeros(len(gradient), self.n_sources)
        n_covered = gradient.shape[1]
        errors = rows[:, self.starts[-1] :].unflatten(1, (-1, self.n_positions))[..., :n_covered]  # embeddings last
        for below in reversed(range(number)):
            own = slice(self.starts[below], self.starts[below + 1])
            rows[:, own], errors[:, below] = self.layers[below].sources(gradient)
            gradient, constant = self.layers[below].pull(gradient)
            bias = bias + constant
        errors[:, -1] = _products(gradient, self.frozen.embedding)
        return rows, bias


@torch.no_grad()
def replace_mlps(model: HookedModel, tokens: Int[Tensor, " pos"], transcoders: Transcoders) -> Replacement:
    """The local replacement model of a prompt. Raises what `freeze` raises."""
    reads = [sae.route.reads[0] for sae in transcoders.values()]
    run = model.run(tokens, capture=[*sites_to_freeze(model), *reads])
    frozen = freeze(model, run)
    text = is_text(model, run.tokens[0])
    layers = []
    for number, block in enumerate(frozen.blocks):
        sae = transcoders.get(number)
        x = run[sae.route.reads[0]][0].float() if sae else None
        layers.append(_layer(block, sae, x, text))
    last = run[f"blocks.{len(layers) - 1}.hook_resid_post"][0].float()
    probabilities = run.logits[0, -1].float().softmax(-1)
    return Replacement(frozen, tuple(layers), probabilities, frozen.final(last)[-1])


def _layer(block: Block, sae: SAE | None, x: Float[Tensor, "pos d"] | None, text: Bool[Tensor, " pos"]) -> Layer:
    out = block.mlp_out
    if sae is None:
        none, empty = out.new_zeros(0), out.new_zeros(0, out.shape[1])
        whole = none.long(), none.long(), none, empty, empty, none, out, torch.zeros_like(out), None
        return Layer(block, None, *whole, text)
    acts = encode(sae, x) * text[:, None]
    position, index = acts.nonzero(as_tuple=True)
    activation = acts[position, index]
    W_enc, W_dec, b_enc = (weight.detach().to(out) for weight in (sae.W_enc, sae.W_dec, sae.b_enc))
    reads, bias = W_enc.T[index], b_enc[index]
    if sae.centre is not None:
        bias = bias - reads @ sae.centre.to(out)
    _check_linear((x[position] * reads).sum(1) + bias, activation, sae)
    W_skip = skip(sae)
    W_skip = None if W_skip is None else W_skip.detach().to(out)
    constant = sae.b_dec.detach().to(out) * text[:, None]
    explained = acts @ W_dec + constant + (0.0 if W_skip is None else (x @ W_skip.T) * text[:, None])
    norm = block.read if sae.route.reads[0].endswith("ln2.hook_normalized") else None
    writes = W_dec[index] * activation[:, None]
    return Layer(block, norm, position, index, activation, reads, writes, bias, out - explained, constant, W_skip, text)


def _check_linear(pre: Float[Tensor, " latent"], activation: Float[Tensor, " latent"], sae: SAE) -> None:
    if not torch.allclose(pre, activation, rtol=1e-3, atol=1e-3 * activation.abs().mean().item() + 1e-6):
        raise SettingError(f"an active latent of a {sae.architecture} is not its pre-activation, so it has no edges")
