"""An evaluation: what a circuit does on some prompts, beside random circuits, and on each prompt by itself."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.experiment import Experiment
from circuits.faithfulness import RandomBaseline, measure, random_baseline, recovered
from workbench.model import HookedModel

NUMBERS = ("f", "kl", "clean", "circuit", "ablated", "gap_error")


@dataclass(frozen=True)
class Example:
    """One prompt, and what the circuit makes of it."""

    prompt: str
    answer: str
    distractor: str
    clean: float
    """The metric of the model."""
    circuit: float
    """The metric of the circuit."""
    f: float
    """Its share of faithfulness: 1 - (clean - circuit) / the gap that the whole task has; f is the mean of these."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a circuit does on some prompts."""

    f: float
    kl: float
    """KL(model ‖ circuit) at the last position, in nats."""
    clean: float
    circuit: float
    ablated: float
    gap_error: float
    """Standard error, over prompts, of `clean - ablated`, which f is a share of."""
    baseline: RandomBaseline
    """Random circuits of as many edges."""
    examples: tuple[Example, ...]
    """The prompts, those that break the circuit first."""

    def __str__(self) -> str:
        values = f"{self.clean:.3f} of the model, {self.circuit:.3f} of the circuit, {self.ablated:.3f} of no edges"
        head = f"faithfulness {self.f:.3f}, KL {self.kl:.4f} on {len(self.examples)} prompts ({values})"
        gap = self.clean - self.ablated
        lines = [head, str(self.baseline)]
        if abs(gap) < 2 * self.gap_error:
            lines.append(
                f"the whole model is hardly better than no edges ({gap:+.3f} ± {self.gap_error:.3f}): f says little"
            )
        return "\n".join(lines)

    @property
    def numbers(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in NUMBERS}

    def to_json(self) -> dict[str, Any]:
        return {
            **self.numbers,
            "baseline": {"n_edges": self.baseline.n_edges, "f": self.baseline.f.tolist()},
            "examples": [asdict(example) for example in self.examples],
        }


def evaluation_from_json(value: dict[str, Any]) -> Evaluation:
    """What `Evaluation.to_json` wrote. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    baseline = RandomBaseline(value["baseline"]["n_edges"], torch.tensor(value["baseline"]["f"]), value["f"])
    examples = tuple(Example(**example) for example in value["examples"])
    return Evaluation(**{name: value[name] for name in NUMBERS}, baseline=baseline, examples=examples)


def evaluate(
    experiment: Experiment, circuit: Circuit, model: HookedModel, *, n_edges: int | None = None, seed: int = 0
) -> Evaluation:
    """What a circuit does on an experiment's prompts, beside random circuits of `n_edges` (its own number of) edges."""
    values, kl = measure(experiment, circuit.edges)
    f = float(recovered(experiment, values))
    size, n = circuit.n_edges if n_edges is None else n_edges, len(experiment)
    baseline = random_baseline(experiment, size, seed=seed, by_position=circuit.by_position)
    return Evaluation(
        f,
        float(kl),
        float(experiment.clean.mean()),
        float(values.mean()),
        float(experiment.ablated.mean()),
        float((experiment.clean - experiment.ablated).std(correction=min(1, n - 1)) / n**0.5),
        replace(baseline, circuit=f),
        _examples(experiment, values, model),
    )


def _examples(experiment: Experiment, values: Float[Tensor, " example"], model: HookedModel) -> tuple[Example, ...]:
    clean = experiment.clean
    share = 1 - (clean - values) / (clean.mean() - experiment.ablated.mean())
    texts: list[tuple[str, str, str]] = []
    for group in experiment.groups:
        strings = model.token_strings([*group.answers.tolist(), *group.distractors.tolist()])
        prompts = [_text(model, row) for row in group.clean.tolist()]
        texts += zip(prompts, strings[: len(group)], strings[len(group) :], strict=True)
    rows = zip(texts, clean.tolist(), values.tolist(), share.tolist(), strict=True)
    return tuple(sorted((Example(*text, *numbers) for text, *numbers in rows), key=lambda example: example.f))


def _text(model: HookedModel, tokens: list[int]) -> str:
    """A prompt without the token that begins every text."""
    begins = model.tokenizer is not None and tokens[0] == model.tokenizer.bos_token_id
    return model.to_string(tokens[1:] if begins else tokens).strip()
