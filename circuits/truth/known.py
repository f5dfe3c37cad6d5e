"""Models whose circuit is known, with the prompts to look for it on."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from circuits.ablations import RESAMPLE, ZERO, Ablation
from circuits.truth import programs
from circuits.truth.compiler import Program, compile_program
from circuits.truth.edges import STRUCTURAL, EdgeNames, behavioural_edges, behavioural_under, structural_edges
from circuits.truth.weights import model_of
from workbench.errors import SettingError, suggestion
from workbench.model import HookedModel
from workbench.prompts import PromptPairs


@dataclass(frozen=True, eq=False)
class KnownCircuit:
    """A model, what it computes, and prompt pairs. Its true edges are of three kinds (see `circuits.truth.edges`)."""

    name: str
    takes: str
    """The input, in words."""
    gives: str
    """The output, in words."""
    model: HookedModel
    pairs: PromptPairs

    def __repr__(self) -> str:
        return f"KnownCircuit({self.name!r}: {self.takes} -> {self.gives})"

    @cached_property
    def structural(self) -> EdgeNames:
        """Edges along which anything can pass, whatever the prompts."""
        return structural_edges(self.model)

    def behavioural(self, ablation: Ablation) -> EdgeNames:
        """Edges that, ablated alone, change a logit of any of the pairs; by brute force."""
        return behavioural_edges(self.model, self.pairs, ablation)

    @cached_property
    def truths(self) -> dict[str, EdgeNames]:
        """All three, by name."""
        return {STRUCTURAL: self.structural} | {
            behavioural_under(ablation): self.behavioural(ablation) for ablation in (ZERO, RESAMPLE)
        }


def known_circuit(name: str) -> KnownCircuit:
    """Raises `SettingError` for an unknown name."""
    if name not in KNOWN:
        raise SettingError(f"no known circuit {name!r}{suggestion(name, KNOWN)}; they are {', '.join(KNOWN)}")
    return KNOWN[name]()


def compiled(program: Program, prompts: Iterable[Sequence[str]], n: int = 64, seed: int = 0) -> KnownCircuit:
    """A compiled program, on pairs of some of its inputs, all of one length.

    At most `n` prompts are drawn, and each is paired with one that says less for the first one's answer.
    """
    rng = random.Random(seed)
    choices = [tuple(prompt) for prompt in prompts]
    spoken = {prompt: program.answer(prompt) for prompt in choices}
    rows = []
    for clean in rng.sample(choices, min(n, len(choices))):
        answer = _loudest(spoken[clean], program)
        weaker = [prompt for prompt in choices if spoken[prompt].get(answer, 0) < spoken[clean].get(answer, 0)]
        if weaker:
            corrupted = rng.choice(weaker)
            distractor = _loudest({**spoken[corrupted], answer: -1.0}, program)
            rows.append((*clean, *corrupted, answer, distractor))
    tokens = torch.tensor([[program.token.labels.index(word) for word in row] for row in rows])
    clean, corrupted = tokens[:, :-2].chunk(2, dim=1)
    pairs = PromptPairs(program.name, clean, corrupted, tokens[:, -2], tokens[:, -1], program.takes)
    return KnownCircuit(program.name, program.takes, program.gives, compile_program(program), pairs)


def _loudest(logits: Mapping[str, float], program: Program) -> str:
    """The token with the highest logit; of several, the first of the vocabulary."""
    return max(program.token.labels, key=lambda token: logits.get(token, 0.0))


def reverse() -> KnownCircuit:
    """Four items, of which one has been said; the end of the list stands at the same place in both prompts."""
    program = programs.reverse()
    return compiled(
        program, (words for words in program.inputs() if words.index(programs.END) == 4 and len(words) == 6)
    )


def fraction() -> KnownCircuit:
    return _longest(programs.fraction())


def next_in_order() -> KnownCircuit:
    return _longest(programs.next_in_order())


def most_frequent() -> KnownCircuit:
    return _longest(programs.most_frequent())


def or_gate() -> KnownCircuit:
    """The one pair of 1 1 and 0 0.

    With S the sum of both sides, the output is 1 - ReLU(1 - S): ablating one side alone does nothing, ablating both
    takes it from 1 to 0. The gradient of the clean run is 0 for each, that of the corrupted run 1, and halfway the mean
    of both.
    """
    program = programs.or_gate()
    model = compile_program(program)
    clean, corrupted = torch.tensor([[1, 1, 2]]), torch.tensor([[0, 0, 2]])
    pairs = PromptPairs(program.name, clean, corrupted, torch.tensor([1]), torch.tensor([0]), program.takes)
    return KnownCircuit(program.name, program.takes, program.gives, model, pairs)


def _longest(program: Program) -> KnownCircuit:
    length = len(program.position.labels)
    return compiled(program, (words for words in program.inputs() if len(words) == length))


def micro() -> KnownCircuit:
    """Two layers of two heads without MLPs, each of which writes w ⊙ what it reads, w = (1, 2) or (3, 4).

    So a layer multiplies the residual stream by (5, 7), and every run can be worked out by hand. Of the input ±(1, 1)
    the logits are ±(25, 49). With the corrupted prompt's values on the edges a0.h1->logits, then also on
    a0.h0->a1.h1<v>, then also on input->a0.h0<v>, they are (19, 41), (13, 25), (9, 13).
    """
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    value = torch.cat([torch.diag(scale) for scale in scales])
    out = torch.eye(2).repeat(1, 2)
    weights = {"tok_embed.weight": torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), "pos.weight": torch.zeros(2, 2)}
    weights |= {"head.weight": torch.eye(2)}
    for layer in range(2):
        weights |= {f"layers.{layer}.attn.v.weight": value, f"layers.{layer}.attn.o.weight": out}
    model = model_of(weights, "micro", ("+", "-"), n_layers=2, n_heads=2, mlp=False)
    takes, gives = "one token, + or -", "logits 25 and 49, or -25 and -49"
    pairs = PromptPairs("micro", *torch.tensor([[[0]], [[1]]]), *torch.tensor([[1], [0]]), takes)
    return KnownCircuit("micro", takes, gives, model, pairs)


KNOWN: dict[str, Callable[[], KnownCircuit]] = {
    make.__name__: make for make in (reverse, fraction, next_in_order, most_frequent, or_gate, micro)
}
