"""Which edges are true? Three answers, which differ; whoever reports a score has to say which one it is against.

* *Structural*: what the source may write meets what the destination reads. The wiring, whatever the prompts.
* *Behavioural under zero ablation*: taking that edge alone away, replacing what it carries by nothing, changes a logit.
* *Behavioural under resample ablation*: likewise, replacing it by what it carries on the corrupted prompt. An edge that
  carries the same on both is not in it, however much the program needs it.

A behavioural set is of single edges: where either of two suffices (an OR gate), it has neither.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import Ablation
from circuits.experiment import Experiment
from circuits.graph import graph_of
from circuits.truth.weights import parameters_of
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

TOLERANCE = 1e-3
"""A logit that moves by less has not changed."""

EdgeNames = frozenset[str]
"""Edges by name, as the graph names them: `a0.h1->m0`."""

STRUCTURAL = "structural"


def behavioural_under(ablation: Ablation) -> str:
    """What the edges of `behavioural_edges` under an ablation are called."""
    return f"behavioural, {ablation.name} ablation"


def structural_edges(model: HookedModel) -> EdgeNames:
    """Edges along which anything can pass, for a model without norms that `model_of` made.

    An edge is in it where the product of the matrix that reads and the matrix that writes is not zero. Queries read
    what the keys can answer to, and keys what the queries can ask for; values, what the head writes.
    """
    graph = graph_of(model)
    writes = dict(zip(graph.sources, _writes(model), strict=True))
    reads = dict(_reads(model))
    names = graph.names(graph.edges)
    return frozenset(name for name in names if _meet(reads, writes, *reversed(name.split("->"))))


def _meet(reads: dict[str, Tensor], writes: dict[str, Tensor], destination: str, source: str) -> bool:
    return bool((reads[destination] @ writes[source]).any())


def _writes(model: HookedModel) -> Iterator[Float[Tensor, "d_model _"]]:
    """Of each source in turn, a matrix whose columns span what it may write."""
    weights = parameters_of(model)
    yield torch.cat([weights["tok_embed.weight"], weights["pos.weight"]]).T
    for layer in range(model.info.n_layers):
        attention = f"layers.{layer}.attn"
        v = _heads(model, weights[f"{attention}.v.weight"])
        o = _heads(model, weights[f"{attention}.o.weight"].T)
        bias = _heads(model, weights[f"{attention}.v.bias"])
        yield from o.transpose(1, 2) @ torch.cat([v, bias[:, :, None]], dim=2)
        if model.info.d_mlp is not None:
            mlp = f"layers.{layer}.mlp.fc_out"
            yield torch.cat([weights[f"{mlp}.weight"], weights[f"{mlp}.bias"][:, None]], dim=1)


def _reads(model: HookedModel) -> Iterator[tuple[str, Float[Tensor, "_ d_model"]]]:
    """Of each destination, a matrix whose rows span what it reads."""
    weights = parameters_of(model)
    for layer in range(model.info.n_layers):
        attention = f"layers.{layer}.attn"
        q, k, v = (_heads(model, weights[f"{attention}.{name}.weight"]) for name in "qkv")
        asked = torch.cat([q, _heads(model, weights[f"{attention}.q.bias"])[:, :, None]], dim=2)
        o = _heads(model, weights[f"{attention}.o.weight"].T)
        for head in range(model.info.n_heads):
            yield f"a{layer}.h{head}<q>", k[head].T @ q[head]
            yield f"a{layer}.h{head}<k>", asked[head].T @ k[head]
            yield f"a{layer}.h{head}<v>", o[head].T @ v[head]
        if model.info.d_mlp is not None:
            yield f"m{layer}", weights[f"layers.{layer}.mlp.fc_in.weight"]
    yield "logits", weights["head.weight"]


def _heads(model: HookedModel, parameter: Tensor) -> Tensor:
    """[head d_head ...] of a parameter that counts both on its first axis."""
    return parameter.unflatten(0, (model.info.n_heads, model.info.d_head))


def behavioural_edges(model: HookedModel, pairs: PromptPairs, ablation: Ablation) -> EdgeNames:
    """Edges that change a logit at the last position of any of the pairs if they alone are ablated, one after another.

    Brute force: as many runs of all the pairs as there are edges, so for small graphs.
    """
    experiment = Experiment(model, pairs, ablation=ablation)
    graph = experiment.graph
    where = graph.edges.nonzero()
    circuits = graph.edges.repeat(len(where), 1, 1)
    circuits[torch.arange(len(where)), where[:, 0], where[:, 1]] = False
    moved = torch.zeros(len(where))
    for batch, logits in experiment.logits(circuits):
        moved = torch.maximum(moved, (logits - batch.clean.logits).abs().amax((1, 2)).cpu())
    found = torch.zeros_like(graph.edges)
    found[graph.edges] = moved > TOLERANCE
    return frozenset(graph.names(found))
