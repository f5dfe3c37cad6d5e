"""Masks: a gate on every edge, moved by the gradient.

* `mask_gradient`: the gradient at a gate, all gates open or the mean on their way from shut to open (auto-circuit).
* `learned_masks`: gates trained to keep the model's output with few of them open: edge pruning (Bhaskar et al. 2024,
  arXiv:2406.16778) with hard concrete gates (Louizos, Welling & Kingma 2018, arXiv:1712.01312).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from circuits.experiment import Batch, Experiment
from circuits.runs import run_circuits
from circuits.scores.gradients import at_gates
from circuits.scores.ig import shares
from circuits.scores.result import EdgeScores
from workbench.errors import SettingError
from workbench.metrics import KL

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Of the hard concrete distribution: its temperature, and the interval that it is stretched to before clipping."""


def mask_gradient(experiment: Experiment, *, steps: int | None = None) -> EdgeScores:
    """Minus the gradient of the metric with respect to each gate: the effect, to first order, of shutting it.

    With all gates open that is `eap`. With `steps`, the mean over the middles of so many parts of the way on which all
    gates open together; the effects of all edges then add up to that of ablating everything. Unlike on the way of
    EAP-IG, what a source writes changes along it, and with it the difference that the gradient is multiplied by.
    """
    return at_gates(experiment, [1.0] if steps is None else shares(steps, "midpoint"), "mask-gradient")


@torch.enable_grad()
def _logits(batch: Batch, gates: Float[Tensor, "destination source"]) -> Float[Tensor, "n d_vocab"]:
    return run_circuits(batch.layout, batch.clean, batch.ablated, gates[None])[0]


def learned_masks(
    experiment: Experiment,
    *,
    n_edges: int,
    steps: int = 200,
    lr: float = 0.1,
    pressure: float = 10.0,
    seed: int = 0,
) -> EdgeScores:
    """Train gates to keep the clean prompts' output with about `n_edges` of them open.

    The loss is KL(clean ‖ circuit) plus `pressure` times the logarithm of how many times more gates are expected to
    be open than are wanted at this step; that number falls, evenly in its logarithm, from all edges to `n_edges` over
    the first half of the steps. Adam with learning rate `lr`; every step takes one batch of the experiment. The
    importance of an edge is the sigmoid of its gate's log-odds, so `scores.top(n_edges)` is the circuit found.
    """
    graph = experiment.graph
    if not 1 <= n_edges <= graph.n_edges:
        raise SettingError(f"n_edges is {n_edges}; it must be between 1 and the graph's {graph.n_edges}")
    if steps < 1:
        raise SettingError(f"steps is {steps}; it must be at least 1")
    device = experiment.device
    exists = graph.edges.to(device)
    odds = torch.full((graph.n_edges,), 3.0, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([odds], lr=lr)
    generator = torch.Generator().manual_seed(seed)
    batches: Sequence[Batch] = ()
    progress = tqdm(range(steps), desc="learned masks", unit="step", leave=False)
    for step in progress:
        batches = batches or list(experiment.batches)
        batch, batches = batches[0], batches[1:]
        noise = torch.rand(graph.n_edges, generator=generator).to(device)
        gates = torch.zeros(exists.shape, device=device).masked_scatter(exists, _sample(odds, noise))
        kl = KL(_logits(batch, gates), batch.pairs, batch.clean.logits).mean()
        share = min(1.0, 2 * (step + 1) / steps)
        target = math.exp((1 - share) * math.log(graph.n_edges) + share * math.log(n_edges))
        excess = (expected_open(odds) / target).log().clamp_min(0)
        optimizer.zero_grad()
        (kl + pressure * excess).backward()
        optimizer.step()
        progress.set_postfix(kl=f"{kl.item():.3f}", open=f"{expected_open(odds).item():.0f}")
    values = torch.zeros(graph.edges.shape).masked_scatter(graph.edges, odds.detach().sigmoid().cpu())
    return EdgeScores(graph, values, "masks", experiment.facts, kind="importance")


def _sample(odds: Float[Tensor, " edge"], noise: Float[Tensor, " edge"]) -> Float[Tensor, " edge"]:
    """Hard concrete gates (Louizos et al. 2018, eqs. 10-11)."""
    noise = noise.clamp(1e-6, 1 - 1e-6)
    soft = ((noise.log() - (-noise).log1p() + odds) / TEMPERATURE).sigmoid()
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1)


def expected_open(odds: Float[Tensor, " edge"]) -> Float[Tensor, ""]:
    """The expected number of gates that are not shut (Louizos et al. 2018, eq. 12)."""
    return (odds - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid().sum()
