"""Interventions on latents: what becomes of the logits when some are turned off or scaled, predicted and measured.

A graph predicts (`predict`); the model is run with edits to see (`intervene`). What is held fixed in the run says what
the prediction is compared with:

    latents     attention patterns, norm scales, errors and all other latents: only direct edges act, exactly
    attention   patterns, norm scales and errors; latents further on respond, so some may switch on or off
    nothing     the model itself, all of it: whether the explanation holds
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.attribution_graph.frozen import frozen_sites
from circuits.attribution_graph.graph import AttributionGraph
from circuits.attribution_graph.transcoders import Transcoders, is_text, skip
from circuits.latents import encode
from saes.sae import SAE
from workbench.edits import Edit, replace
from workbench.errors import SettingError
from workbench.model import HookedModel, Run

MLP_OUT = "blocks.*.hook_mlp_out"
Held = Literal["nothing", "attention", "latents"]


class Latent(NamedTuple):
    """An active latent: the transcoder's layer, the position of the token, and the latent's number."""

    layer: int
    position: int
    index: int


def predict(
    graph: AttributionGraph, latents: Sequence[Latent], factor: float = 0.0, *, respond: bool = True
) -> Float[Tensor, " logit"]:
    """The change of each logit (less what it is explained against) that follows from multiplying latents by `factor`.

    With `respond`, latents further on follow linearly: along paths of every length; else only direct edges count.
    Raises `SettingError` for a latent that the graph does not have.
    """
    number = {Latent(*place): i for i, place in enumerate(graph.latents.tolist())}
    if missing := [latent for latent in latents if latent not in number]:
        raise SettingError(f"{tuple(missing[0])} (layer, position, index) is no latent of this graph")
    chosen = [number[latent] for latent in latents]
    n = graph.n_latents
    change = torch.zeros(n)  # of each latent, as a share of its activation
    change[chosen] = factor - 1
    if respond:
        among, activations = graph.edges[:n, :n], graph.activations
        for _ in range(graph.n_layers):
            change = among @ change / activations
            change[chosen] = factor - 1
    return graph.edges[n:, :n] @ change


def effects(graph: AttributionGraph) -> Float[Tensor, "logit latent"]:
    """What each latent does to each logit along paths of every length: minus `predict` of turning it off alone."""
    n = graph.n_latents
    passed = total = graph.edges[n:, :n]
    for _ in range(graph.n_layers - 1):
        passed = (passed / graph.activations) @ graph.edges[:n, :n]
        total = total + passed
    return total


def intervene(
    model: HookedModel,
    tokens: Int[Tensor, " pos"],
    transcoders: Transcoders,
    sets: Sequence[Sequence[Latent]],
    factor: float = 0.0,
    *,
    held: Held = "nothing",
) -> Float[Tensor, "set d_vocab"]:
    """The logits after the prompt when each set of latents, one at a time, is multiplied by `factor`.

    A latent is multiplied as it is in the run at hand, so one that an earlier intervention has switched off stays off.
    The module says what `held` means. Raises `SettingError` for a layer without a transcoder.
    """
    tokens = tokens.to(model.device)
    changes = {layer: _Change(sae, *_places(sets, layer, model.device), factor) for layer, sae in transcoders.items()}
    if missing := sorted({latent.layer for latents in sets for latent in latents} - changes.keys()):
        raise SettingError(f"there is no transcoder for layer {missing[0]}")
    if held == "nothing":
        edits = [edit for change in changes.values() for edit in change.of_model()]
    else:
        outputs = [MLP_OUT.replace("*", str(layer)) for layer in range(model.info.n_layers)]
        reads = [change.read for change in changes.values()]
        clean = model.run(tokens, capture=[*frozen_sites(model), *outputs, *reads])
        edits = [replace(site, clean[site]) for site in (*frozen_sites(model), *outputs)]
        text = is_text(model, tokens)[:, None]
        edits += [edit for change in changes.values() for edit in change.of_replacement(clean, text, held == "latents")]
    return model.run(tokens.expand(len(sets), -1), edits=edits).logits[:, -1].float().cpu()


def _places(
    sets: Sequence[Sequence[Latent]], layer: int, device: torch.device
) -> tuple[Int[Tensor, " change"], Int[Tensor, " change"], Int[Tensor, " change"]]:
    """The row of the batch, the position and the latent of every change in a layer."""
    found = [
        (row, latent.position, latent.index)
        for row, latents in enumerate(sets)
        for latent in latents
        if latent.layer == layer
    ]
    return tuple(torch.tensor(found, dtype=torch.long, device=device).view(-1, 3).unbind(1))


@dataclass(eq=False)
class _Change:
    """Some latents of one transcoder multiplied by a factor, by two edits: one sees what it reads, the other writes."""

    sae: SAE
    rows: Int[Tensor, " change"]
    positions: Int[Tensor, " change"]
    indices: Int[Tensor, " change"]
    factor: float
    x: Float[Tensor, "set pos d"] | None = None
    """What the transcoder reads, in the run at hand."""

    @property
    def read(self) -> str:
        return self.sae.route.reads[0]

    @property
    def write(self) -> str:
        return self.sae.route.writes[0]

    def _look(self, x: Tensor) -> Tensor:
        self.x = x
        return x

    def _delta(self, x: Float[Tensor, "set pos d"]) -> Float[Tensor, "set pos d"]:
        """What the change adds to the MLP's output."""
        latents = encode(self.sae, x[self.rows, self.positions])
        change = (self.factor - 1) * latents.gather(1, self.indices[:, None])
        rows = (change * self.sae.W_dec[self.indices.to(self.sae.W_dec.device)].to(change)).to(x)
        return torch.zeros_like(x).index_put((self.rows, self.positions), rows, accumulate=True)

    def of_model(self) -> list[Edit]:
        if not len(self.rows):
            return []
        return [
            Edit(self.read, self._look, name="look"),
            Edit(self.write, lambda out: out + self._delta(self.x), name="latents"),
        ]

    def of_replacement(self, clean: Run, text: Bool[Tensor, "pos 1"], latents_held: bool) -> list[Edit]:
        """The same where the clean run's error is kept, and its latents too if they are held."""
        was = clean[self.read]
        respond = partial(_skipped, self.sae) if latents_held else self.sae

        def change(out: Float[Tensor, "set pos d"]) -> Float[Tensor, "set pos d"]:
            followed = (respond(self.x.to(self.sae.b_dec)) - respond(was.to(self.sae.b_dec))).to(out)
            return out + followed * text + self._delta(was.expand_as(self.x) if latents_held else self.x)

        return [Edit(self.read, self._look, name="look"), Edit(self.write, change, name="latents")]


def _skipped(sae: SAE, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """What goes past a transcoder's latents."""
    W_skip = skip(sae)
    return torch.zeros_like(x) if W_skip is None else x @ W_skip.T
