"""Experiments on the tiny models of every architecture, and two machines small enough to work out by hand."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from circuits.experiment import Experiment
from circuits.graph import Graph, Span
from circuits.layout import Layout
from circuits.stages import Whole
from workbench.metrics import Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs


def random_pairs(n: int = 4, length: int = 9, seed: int = 0) -> PromptPairs:
    """Prompts of random tokens; the clean and the corrupted one begin alike."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randint(0, 300, (2, n, length), generator=generator)
    corrupted[:, 0] = clean[:, 0]
    answers, distractors = torch.randint(0, 300, (2, n), generator=generator)
    return PromptPairs("random", clean, corrupted, answers, distractors)


@pytest.fixture
def pairs() -> PromptPairs:
    return random_pairs()


@pytest.fixture
def experiment(model: HookedModel, pairs: PromptPairs) -> Experiment:
    """On a model of each architecture in turn."""
    return Experiment(model, pairs)


OUTPUT = Metric("output", lambda logits, pairs, clean: logits[..., 0])


@dataclass(frozen=True, eq=False)
class Blocks:
    """Nodes side by side, each a matrix [d d] that turns what it reads into what it writes, and something added."""

    matrices: Tensor
    constant: Tensor | None = None
    coupled: bool = False

    def taps(self, stream):
        return (stream.expand(len(self.matrices), *stream.shape) * 1,)

    def emit(self, taps):
        out = torch.einsum("vnsd,vde->nsve", taps[0], self.matrices)
        return out if self.constant is None else out + self.constant

    def added(self, state):
        return state.sum(2)

    def expand(self, state, which=None):
        return (state if which is None else state[:, :, which]).permute(2, 0, 1, 3)

    def inputs(self, which):
        return which

    def split(self, reads, which):
        out = torch.einsum("cvnsd,vde->cvnse", reads, self.matrices[which])
        return out if self.constant is None else out + self.constant[which, None, None]

    def pull(self, stream, gradients, positions):
        return gradients[0][:, :, positions]

    def retap(self, taps, destination, read):
        tap = taps[0].repeat(1, len(read) // taps[0].shape[1], 1, 1)
        return (torch.cat([tap[:destination], read[None], tap[destination + 1 :]]),)


def machine(layers: list[Tensor], readout, embedding: Tensor, constant: Tensor | None = None) -> Layout:
    """Layers of `Blocks` on a residual stream, and what becomes of it; `embedding` has a row for each token."""
    sources, destinations, spans = ["input"], [], []
    feeds = []
    for number, matrices in enumerate(layers):
        into = range(len(destinations), len(destinations) + len(matrices))
        out = range(len(sources), len(sources) + len(matrices))
        spans.append(Span(len(sources), into, out))
        names = [f"b{number}.{block}" for block in range(len(matrices))]
        sources, destinations = sources + names, destinations + names
        feeds += list(zip(into, out, strict=True))
    spans.append(Span(len(sources), range(len(destinations), len(destinations) + 1), range(len(sources), len(sources))))
    destinations.append("output")
    fed = torch.zeros(len(destinations), len(sources), dtype=torch.bool)
    for pair in feeds:
        fed[pair] = True
    graph = Graph(tuple(sources), tuple(destinations), tuple(spans), fed)
    stages = (*(Blocks(matrices, constant) for matrices in layers), Whole(lambda stream: readout(stream[:, -1])))
    return Layout(graph, stages, lambda tokens: embedding[tokens], "machine")


def one_pair() -> PromptPairs:
    """Token 0, corrupted to token 1."""
    return PromptPairs("one", torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([0]), torch.tensor([0]))


@pytest.fixture
def or_gate() -> Experiment:
    """out = 1 - relu(1 - s), s = h0 + h1; each of the two nodes copies the input, which is 1, and 0 when corrupted."""
    copy = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # from the input's dimension to that of s
    layout = machine(
        [torch.stack([copy, copy])],
        lambda stream: 1 - torch.relu(1 - stream[..., 1:]),
        torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
    )
    return Experiment(layout, one_pair(), OUTPUT)


@pytest.fixture
def micro_model() -> Experiment:
    """Two layers of two blocks that multiply by (1, 2) and (3, 4); the input is (-1, -1), and (1, 1) when corrupted."""
    blocks = torch.diag_embed(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    embedding = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    return Experiment(machine([blocks, blocks], lambda stream: stream, embedding), one_pair(), OUTPUT)
