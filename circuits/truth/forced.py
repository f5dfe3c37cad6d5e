"""A trained transformer with a known circuit: forced to carry along each edge what a compiled program carries there.

Interchange intervention training (Geiger et al. 2022, arXiv:2112.00826), strict as in InterpBench (Gupta et al. 2024,
arXiv:2407.14494), and of edges where they exchange whole nodes. What a source writes is exchanged for what it writes in
another prompt, on the way to one destination, in the trained model and in the compiled one. Where the program has that
edge, the trained model must then answer as the compiled one does; where it has none, as if nothing had happened.
(Exchanges of nodes leave it open which way things take: a model can pass all of them and still read from anywhere.)

The weights are dense and all nodes share the residual stream, so such a model is far more like a real one than a
compiled one is; but its circuit is only as true as its `accuracy` says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from circuits.ablations import RESAMPLE
from circuits.graph import INPUT, LOGITS, graph_of
from circuits.truth import programs
from circuits.truth.edges import EdgeNames, behavioural_edges, behavioural_under, structural_edges
from circuits.truth.known import compiled as known
from circuits.truth.weights import Weights, model_of, parameters_of
from workbench.edits import Edit, add
from workbench.errors import SettingError
from workbench.model import HookedModel, Run
from workbench.prompts import PromptPairs

EXCHANGED = 8
"""Edges that are exchanged in one step, each in prompts of its own; half of them are the program's."""
WRITTEN = ("blocks.0.hook_resid_pre", "blocks.*.attn.hook_z", "blocks.*.hook_mlp_out")


@dataclass(frozen=True, eq=False)
class ForcedCircuit:
    """A trained model, prompt pairs, and the edges of the program that was forced on it."""

    model: HookedModel
    pairs: PromptPairs
    truth: EdgeNames
    """Behavioural edges of the compiled program, on these pairs and under resample ablation."""
    accuracy: dict[str, float]
    """Of each edge: the share of the pairs answered as the program does when that edge carries the corrupted prompt."""

    @property
    def truths(self) -> dict[str, EdgeNames]:
        """The one truth that is known, by name, as those of a compiled program."""
        return {behavioural_under(RESAMPLE): self.truth}

    def __str__(self) -> str:
        worst = min(self.accuracy, key=self.accuracy.__getitem__)
        least = f"right on {self.accuracy[worst]:.1%} of the pairs or more, least when {worst} is exchanged"
        return f"{self.model!r}, {len(self.truth)} of {len(self.accuracy)} edges forced; {least}"


def force(
    compiled: HookedModel,
    pairs: PromptPairs,
    *,
    n_heads: int = 2,
    d_model: int = 32,
    d_head: int = 16,
    d_mlp: int = 64,
    steps: int = 1000,
    batch_size: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
) -> ForcedCircuit:
    """Train a model of the same layers, with at least as many heads, to compute what a compiled one does on some pairs.

    The answer is the token of the highest logit at the last position. Adam, the learning rate falling to zero along a
    cosine; half of the loss is of plain runs, half of exchanges. Raises `SettingError` for too few heads.
    """
    if n_heads < compiled.info.n_heads:
        raise SettingError(f"n_heads is {n_heads}; the program needs {compiled.info.n_heads}")
    generator = torch.Generator().manual_seed(seed)
    model = _random_model(compiled, n_heads, d_model, d_head, d_mlp, generator)
    graph, program = graph_of(model), structural_edges(compiled)
    edges, own = graph.names(graph.edges), sorted(program)
    parameters = [parameter.requires_grad_() for parameter in parameters_of(model).values()]
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    progress = tqdm(range(steps), desc="forcing a circuit", unit="step", leave=False, mininterval=1)
    for step in progress:
        rows, others = torch.randint(len(pairs), (2, batch_size), generator=generator)
        chosen = [_draw(own if number % 2 else edges, generator) for number in range(EXCHANGED)]
        prompts = pairs.clean[rows], pairs.clean[others]
        labels = exchange(compiled, *prompts, [_kept(edge, program) for edge in chosen])
        runs = exchange(model, *prompts, chosen, grad=True)
        loss = sum(functional.cross_entropy(run, to.argmax(-1)) for run, to in zip(runs, labels, strict=True)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")
    for parameter in parameters:
        parameter.requires_grad_(False)
    truth = behavioural_edges(compiled, pairs, RESAMPLE)
    return ForcedCircuit(model, pairs, truth, exchange_accuracy(model, compiled, pairs))


def forced() -> ForcedCircuit:
    """The circuit of `reverse` forced on two heads a layer: about a minute on one core.

    Its prompts are lists of four items of which one has been said, and of three of which two have.
    """
    program = programs.reverse()
    circuit = known(program, (words for words in program.inputs() if len(words) == 6), n=200)
    return force(circuit.model, circuit.pairs)


def exchange_accuracy(model: HookedModel, compiled: HookedModel, pairs: PromptPairs) -> dict[str, float]:
    """Of each edge of a model, the share of the pairs to which it answers as a compiled model does, if that edge alone
    carries what it does on the corrupted prompt, in both; if the program has no such edge, in the first alone.
    """
    graph, program = graph_of(model), structural_edges(compiled)
    shares = {}
    for edge in graph.names(graph.edges):
        prompts = pairs.clean, pairs.corrupted
        ours, theirs = (
            exchange(one, *prompts, [kept])[1].argmax(-1)
            for one, kept in ((model, edge), (compiled, _kept(edge, program)))
        )
        shares[edge] = float((ours == theirs).float().mean())
    return shares


def exchange(
    model: HookedModel,
    prompts: Int[Tensor, "prompt pos"],
    others: Int[Tensor, "prompt pos"],
    edges: Sequence[str | None],
    *,
    grad: bool = False,
) -> tuple[Float[Tensor, "prompt d_vocab"], Float[Tensor, "prompt d_vocab"]]:
    """Logits at the last position of prompts, plain and exchanged: prompt i with what edge i (and round again) carries
    on the other prompt instead. For models without norms, where what a destination reads is a sum that can be added to.
    """
    run = model.run(torch.cat([prompts, others]), capture=WRITTEN, grad=grad)
    plain = run.logits[: len(prompts), -1]
    weights = parameters_of(model)
    shift = torch.zeros_like(plain)
    edits: list[Edit] = []
    for number, edge in enumerate(edges):
        if edge is None:
            continue
        source, _, destination = edge.partition("->")
        here, there = _written(model, weights, run, source).chunk(2)
        mine = torch.arange(len(prompts)) % len(edges) == number
        change = (there - here) * mine[:, None, None]
        if destination == LOGITS:
            shift = shift + change[:, -1] @ weights["head.weight"].T
        else:
            edits.append(_read(model, weights, destination, change))
    return plain, model.run(prompts, edits=edits, grad=grad).logits[:, -1] + shift


def _written(model: HookedModel, weights: Weights, run: Run, source: str) -> Float[Tensor, "prompt pos d_model"]:
    if source == INPUT:
        return run[WRITTEN[0]]
    layer, _, head = source[1:].partition(".h")
    if source.startswith("m"):
        return run[f"blocks.{layer}.hook_mlp_out"]
    out = weights[f"layers.{layer}.attn.o.weight"][:, _of_head(model, int(head))]
    return run[f"blocks.{layer}.attn.hook_z"][:, :, int(head)] @ out.T


def _read(model: HookedModel, weights: Weights, destination: str, change: Float[Tensor, "prompt pos d_model"]) -> Edit:
    """An edit that makes one destination read so much more."""
    layer, _, head = destination[1:].partition(".h")
    if destination.startswith("m"):
        return add(f"blocks.{layer}.mlp.hook_pre", change @ weights[f"layers.{layer}.mlp.fc_in.weight"].T)
    head, part = head.rstrip(">").split("<")
    weight = weights[f"layers.{layer}.attn.{part}.weight"][_of_head(model, int(head))]
    return add(f"blocks.{layer}.attn.hook_{part}", (change @ weight.T)[:, :, None], heads=[int(head)])


def _of_head(model: HookedModel, head: int) -> slice:
    return slice(head * model.info.d_head, (head + 1) * model.info.d_head)


def _draw(edges: Sequence[str], generator: torch.Generator) -> str:
    return edges[int(torch.randint(len(edges), (), generator=generator))]


def _kept(edge: str, program: EdgeNames) -> str | None:
    return edge if edge in program else None


def _random_model(
    compiled: HookedModel, n_heads: int, d_model: int, d_head: int, d_mlp: int, generator: torch.Generator
) -> HookedModel:
    info = compiled.info
    shapes = {"tok_embed": (info.d_vocab, d_model), "pos": (info.n_ctx, d_model), "head": (info.d_vocab, d_model)}
    for layer in range(info.n_layers):
        shapes |= {f"layers.{layer}.attn.{part}": (n_heads * d_head, d_model) for part in "qkv"}
        shapes |= {f"layers.{layer}.attn.o": (d_model, n_heads * d_head)}
        shapes |= {f"layers.{layer}.mlp.fc_in": (d_mlp, d_model), f"layers.{layer}.mlp.fc_out": (d_model, d_mlp)}
    weights = {
        f"{name}.weight": torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        for name, shape in shapes.items()
    }
    vocabulary = compiled.token_strings(range(info.d_vocab))
    return model_of(weights, f"{info.name}, forced", vocabulary, n_layers=info.n_layers, n_heads=n_heads)
