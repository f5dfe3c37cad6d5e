"""A small compiler from programs to the weights of a transformer.

The residual stream has an orthonormal basis of named directions. A *variable* owns one direction for each of its
labels: `token` and `position` are written by the embedding as one-hot vectors, every other variable by one head or MLP,
once. So whoever reads a variable reads what one node wrote, and the circuit is known.

* A head attends to the positions whose score is highest, evenly if several are. Scores are tables over the labels of a
  variable at the query and one at the key; times `HARD`, the softmax of anything but a tie is exact in float32.
  It writes what it finds there: a variable, its labels renamed or dropped.
* An MLP looks up a function of one or two variables (a ReLU neuron for each combination of labels), tells which of
  some numbers it reads (two neurons for each step from one to the next), or computes an OR.

The idea is that of RASP and tracr (Weiss et al. 2021, arXiv:2106.06981; Lindner et al. 2023, arXiv:2301.05062), here
with causal attention, constants in the biases instead of in a direction, and nothing but a handful of matrices.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from circuits.truth.weights import model_of
from workbench.model import HookedModel

HARD = 128
"""Attention scores are whole numbers times this; exp(-128) is zero in float32."""

Label = Hashable


@dataclass(frozen=True)
class Variable:
    """Named directions of the residual stream. A number is a variable of one label."""

    name: str
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Score:
    """A part of an attention score: a whole number for a label at the query (if it asks for one) and one at the key."""

    query: Variable | None
    key: Variable
    table: Callable[..., int]
    """(query label, key label) -> score, or (key label) -> score if there is no query."""


@dataclass(frozen=True)
class Head:
    """Attends where the sum of the scores is highest, and writes the mean of what stands there."""

    writes: Variable
    reads: Variable
    scores: tuple[Score, ...] = ()
    rename: Callable[[Label], Label | None] = lambda label: label
    """The label that is written for one that is read; None for nothing."""


@dataclass(frozen=True)
class Lookup:
    """Writes the label that a function has for the labels of one or two variables; None for nothing."""

    writes: Variable
    reads: tuple[Variable, ...]
    function: Callable[..., Label | None]


@dataclass(frozen=True)
class Nearest:
    """Writes the label whose number a variable of one label comes nearest to."""

    writes: Variable
    reads: Variable
    numbers: Mapping[Label, float]


@dataclass(frozen=True)
class AnyOf:
    """Writes 1 - ReLU(1 - sum): one if any of some variables of one label is one, zero if none is."""

    writes: Variable
    reads: tuple[Variable, ...]


@dataclass(frozen=True)
class Layer:
    heads: tuple[Head, ...] = ()
    mlp: tuple[Lookup | Nearest | AnyOf, ...] = ()


@dataclass(frozen=True)
class Program:
    """What a compiled model computes. The answer stands at the last position."""

    name: str
    takes: str
    """The input, in words."""
    gives: str
    """The output, in words."""
    token: Variable
    """Its labels are words, the vocabulary of the model."""
    position: Variable
    layers: tuple[Layer, ...]
    output: Variable
    """Its labels are tokens: the logit of a token is what stands in its direction, that of any other is zero."""
    answer: Callable[[tuple[str, ...]], Mapping[str, float]]
    """The same in plain Python: logits of the tokens that have any."""
    inputs: Callable[[], Iterable[tuple[str, ...]]]
    """All inputs that the program is for."""


class _Basis:
    """Which direction of the residual stream is whose."""

    def __init__(self, variables: Iterable[Variable]) -> None:
        names = [(variable.name, label) for variable in variables for label in variable.labels]
        if len(set(names)) != len(names):
            raise ValueError("two nodes write one variable, or a variable has a label twice")
        self._numbers = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._numbers)

    def __call__(self, variable: Variable, label: Label) -> int:
        return self._numbers[variable.name, label]


def compile_program(program: Program) -> HookedModel:
    """A hooked model that computes the program. Raises `ValueError` for a program that makes no sense."""
    steps = [step for layer in program.layers for step in (*layer.heads, *layer.mlp)]
    basis = _Basis([program.token, program.position, *(step.writes for step in steps)])
    heads = [head for layer in program.layers for head in layer.heads]
    n_heads = max((len(layer.heads) for layer in program.layers), default=1) or 1
    d_head = 4 ** math.ceil(math.log(max([2, *map(_width, heads)]), 4))  # its root is a power of two, exact in floats
    neurons = [_neurons(layer.mlp, basis) for layer in program.layers]
    d_mlp = max(1, *(len(part.bias_in) for part in neurons))

    weights = {
        "tok_embed.weight": _one_hot(program.token, basis),
        "pos.weight": _one_hot(program.position, basis),
        "head.weight": torch.zeros(len(program.token.labels), len(basis)),
    }
    for label in program.output.labels:
        weights["head.weight"][program.token.labels.index(label), basis(program.output, label)] = 1
    for number, (layer, part) in enumerate(zip(program.layers, neurons, strict=True)):
        q, k, v, o = (torch.zeros(n_heads, d_head, len(basis)) for _ in range(4))
        q_bias = torch.zeros(n_heads, d_head)
        for row, head in enumerate(layer.heads):
            _attend(head, basis, q[row], q_bias[row], k[row])
            _carry(head, basis, v[row], o[row])
        attention = f"layers.{number}.attn"
        weights |= {f"{attention}.{name}.weight": x.flatten(0, 1) for name, x in (("q", q), ("k", k), ("v", v))}
        weights |= {f"{attention}.q.bias": q_bias.flatten(), f"{attention}.o.weight": o.flatten(0, 1).T}
        weights |= part.padded(d_mlp).named(f"layers.{number}.mlp")
    return model_of(weights, program.name, program.token.labels, n_layers=len(program.layers), n_heads=n_heads)


def _one_hot(variable: Variable, basis: _Basis) -> Tensor:
    return torch.eye(len(basis))[[basis(variable, label) for label in variable.labels]]


def _width(head: Head) -> int:
    asked = sum(len(score.query.labels) if score.query else 1 for score in head.scores)
    return max(asked, len(head.writes.labels))


def _attend(head: Head, basis: _Basis, q: Tensor, q_bias: Tensor, k: Tensor) -> None:
    """One dimension of the head for each label that a query can ask with; the keys hold the scores."""
    unit = HARD * math.sqrt(len(q))
    dimension = 0
    for score in head.scores:
        for label in score.query.labels if score.query else [None]:
            if score.query:
                q[dimension, basis(score.query, label)] = 1
            else:
                q_bias[dimension] = 1
            for other in score.key.labels:
                value = score.table(label, other) if score.query else score.table(other)
                k[dimension, basis(score.key, other)] = unit * value
            dimension += 1


def _carry(head: Head, basis: _Basis, v: Tensor, o: Tensor) -> None:
    """One dimension of the head for each label that it writes."""
    for dimension, label in enumerate(head.writes.labels):
        o[dimension, basis(head.writes, label)] = 1
    for label in head.reads.labels:
        written = head.rename(label)
        if written is not None:
            v[head.writes.labels.index(written), basis(head.reads, label)] = 1


@dataclass(frozen=True)
class _Neurons:
    """The weights of an MLP: [hidden d_model], [hidden], [hidden d_model], [d_model]."""

    weight_in: Tensor
    bias_in: Tensor
    weight_out: Tensor
    bias_out: Tensor

    def padded(self, hidden: int) -> "_Neurons":
        more = hidden - len(self.bias_in)
        rows = torch.zeros(more, self.weight_in.shape[1])
        return _Neurons(
            torch.cat([self.weight_in, rows]),
            torch.cat([self.bias_in, torch.zeros(more)]),
            torch.cat([self.weight_out, rows]),
            self.bias_out,
        )

    def named(self, prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}.fc_in.weight": self.weight_in,
            f"{prefix}.fc_in.bias": self.bias_in,
            f"{prefix}.fc_out.weight": self.weight_out.T,
            f"{prefix}.fc_out.bias": self.bias_out,
        }


def _neurons(steps: Iterable[Lookup | Nearest | AnyOf], basis: _Basis) -> _Neurons:
    neurons: list[tuple[dict[int, float], float, dict[int, float]]] = []
    constant: dict[int, float] = {}
    for step in steps:
        if isinstance(step, Lookup):
            neurons += _lookup(step, basis)
        elif isinstance(step, Nearest):
            neurons += _nearest(step, basis)
            constant[basis(step.writes, min(step.numbers, key=step.numbers.__getitem__))] = 1
        else:
            (written,) = step.writes.labels
            reads = {basis(variable, variable.labels[0]): -1.0 for variable in step.reads}
            neurons.append((reads, 1, {basis(step.writes, written): -1}))
            constant[basis(step.writes, written)] = 1
    return _Neurons(
        _rows([reads for reads, _, _ in neurons], len(basis)),
        torch.tensor([float(bias) for _, bias, _ in neurons]),
        _rows([writes for _, _, writes in neurons], len(basis)),
        _rows([constant], len(basis))[0],
    )


def _lookup(step: Lookup, basis: _Basis) -> Iterable[tuple]:
    """A neuron for each combination of labels: ReLU of how many of them are there, less all but one."""
    for labels in product(*(variable.labels for variable in step.reads)):
        written = step.function(*labels)
        if written is not None:
            reads = {basis(variable, label): 1 for variable, label in zip(step.reads, labels, strict=True)}
            yield reads, 1 - len(labels), {basis(step.writes, written): 1}


def _nearest(step: Nearest, basis: _Basis) -> Iterable[tuple]:
    """Between two neighbouring numbers a step from 0 to 1, flat but for the middle half of the way."""
    (label,) = step.reads.labels
    read = basis(step.reads, label)
    ordered = sorted(step.numbers, key=step.numbers.__getitem__)
    for lower, upper in pairwise(ordered):
        low, high = step.numbers[lower], step.numbers[upper]
        slope, middle = 2 / (high - low), (low + high) / 2
        for sign in (1, -1):
            writes = {basis(step.writes, upper): sign, basis(step.writes, lower): -sign}
            yield {read: slope}, sign / 2 - slope * middle, writes


def _rows(entries: list[dict[int, float]], width: int) -> Tensor:
    rows = torch.zeros(len(entries), width)
    for row, entry in zip(rows, entries, strict=True):
        for column, value in entry.items():
            row[column] = value
    return rows
