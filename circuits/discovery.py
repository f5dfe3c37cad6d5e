"""A discovery: a circuit, the scores that it was cut from, and what it does on prompts that were held out.

On disk a directory of circuit.json, scores.safetensors and evaluation.json, written whole or not at all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablations import Ablation, ablation_named, mean_ablation
from circuits.circuit import Circuit, load_circuit
from circuits.curves import Curves, RandomCurves, curves, random_curves
from circuits.experiment import Experiment
from circuits.faithfulness import RandomBaseline, measure, random_baseline, recovered
from circuits.methods import score_edges
from circuits.scores.result import EdgeScores, load_scores
from circuits.tasks.task import Task
from workbench.errors import DamagedFile, ModelError, PromptError, SettingError
from workbench.files import read_json, whole_directory, write_json
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

CIRCUIT, SCORES, EVALUATION = "circuit.json", "scores.safetensors", "evaluation.json"


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
    baseline: RandomBaseline
    """Random circuits of as many edges."""
    examples: tuple[Example, ...]
    """The prompts, those that break the circuit first."""

    def __str__(self) -> str:
        values = f"{self.clean:.3f} of the model, {self.circuit:.3f} of the circuit, {self.ablated:.3f} of no edges"
        return (
            f"faithfulness {self.f:.3f}, KL {self.kl:.4f} on {len(self.examples)} prompts ({values})\n{self.baseline}"
        )


@dataclass(frozen=True, eq=False)
class Discovery:
    """What `discover` finds."""

    circuit: Circuit
    scores: EdgeScores
    evaluation: Evaluation
    curves: Curves
    random: RandomCurves

    def __str__(self) -> str:
        facts, graph = self.circuit.facts, self.circuit.graph
        lines = [
            f"Circuit of {facts['task']} in {facts['model']}: {facts['method']}, {facts['ranking']} ranking, "
            f"{facts['ablation']} ablation",
            f"  edges  {facts['n_edges']:,} of {graph.n_edges:,} ({facts['n_edges'] / graph.n_edges:.1%}) kept, "
            f"{self.circuit.n_edges:,} of them on a path from the input to the logits",
            f"  nodes  {len(self.circuit.nodes)} of {len(graph.sources)}: {_listed(self.circuit.nodes)}",
            *(f"  {line}" for line in str(self.evaluation).split("\n")),
            "",
            "   share    edges  f signed  f absolute  f random (95%)",
        ]
        rows = (self.curves.signed, self.curves.absolute, self.random.f.mean(0), *self.random.interval)
        columns = [(row.round(decimals=3) + 0.0).tolist() for row in rows]  # no minus before a zero
        for size, n_edges, *f in zip(self.curves.sizes, self.curves.n_edges, *columns, strict=True):
            lines.append(
                "  {:>6.3f}  {:>7,}  {:>8.3f}  {:>10.3f}  {:>8.3f} ({:.3f} to {:.3f})".format(size, n_edges, *f)
            )
        areas = (self.curves.cpr, self.random.cpr, self.curves.cmd, self.random.cmd)
        return "\n".join([*lines, "CPR {:.3f} (random {:.3f})   CMD {:.3f} (random {:.3f})".format(*areas)])

    def to_dict(self) -> dict[str, Any]:
        """All but the scores of single edges, as JSON values."""
        return {
            "facts": dict(self.circuit.facts),
            "n_edges": self.circuit.n_edges,
            "n_possible": self.circuit.n_possible,
            "nodes": self.circuit.nodes,
            "edges": self.circuit.names,
            "cpr": self.curves.cpr,
            "cmd": self.curves.cmd,
            "random_cpr": self.random.cpr,
            "random_cmd": self.random.cmd,
            **_evaluated(self),
        }

    def save(self, directory: str | Path) -> None:
        """Write a new directory. Raises `SettingError` if there is something in it."""
        check_free(directory)
        with whole_directory(directory) as stage:
            self.circuit.save(stage / CIRCUIT)
            self.scores.save(stage / SCORES)
            write_json(stage / EVALUATION, _evaluated(self))


def _listed(names: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _evaluated(found: Discovery) -> dict[str, Any]:
    evaluation = {name: getattr(found.evaluation, name) for name in ("f", "kl", "clean", "circuit", "ablated")}
    baseline, curve = found.evaluation.baseline, found.curves
    return {
        "evaluation": evaluation,
        "baseline": {"n_edges": baseline.n_edges, "f": baseline.f.tolist()},
        "curves": {
            "method": curve.method,
            "sizes": list(curve.sizes),
            "n_edges": list(curve.n_edges),
            "signed": curve.signed.tolist(),
            "absolute": curve.absolute.tolist(),
            "random": found.random.f.tolist(),
        },
        "examples": [asdict(example) for example in found.evaluation.examples],
    }


def check_free(directory: str | Path) -> None:
    """Raises `SettingError` unless a directory can be made there."""
    path = Path(directory)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise SettingError(f"{path} is already there; a circuit is written to a new directory")


def load_discovery(directory: str | Path) -> Discovery:
    """Read what `Discovery.save` wrote. Raises `DamagedFile`."""
    path = Path(directory)
    if not (path / CIRCUIT).is_file():
        raise DamagedFile(f"{path} holds no circuit; `workbench circuit find --out {path}` writes one")
    circuit, scores, value = load_circuit(path / CIRCUIT), load_scores(path / SCORES), read_json(path / EVALUATION)
    try:
        given = value["curves"]
        sizes = tuple(given["sizes"])
        signed, absolute, random = (torch.tensor(given[name]) for name in ("signed", "absolute", "random"))
        baseline = RandomBaseline(value["baseline"]["n_edges"], torch.tensor(value["baseline"]["f"]))
        baseline = replace(baseline, circuit=value["evaluation"]["f"])
        examples = tuple(Example(**example) for example in value["examples"])
        evaluation = Evaluation(**value["evaluation"], baseline=baseline, examples=examples)
        curve = Curves(given["method"], sizes, tuple(given["n_edges"]), signed, absolute)
        return Discovery(circuit, scores, evaluation, curve, RandomCurves(sizes, random))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path / EVALUATION} is damaged ({error})") from None


def check_model(circuit: Circuit, model: HookedModel) -> None:
    """Raises `ModelError` if a circuit was found in another model."""
    found = str(circuit.facts.get("fingerprint", ""))
    if found != model.fingerprint:
        raise ModelError(
            f"this circuit was found in {circuit.facts.get('model')} with fingerprint {found[:8]}…, not in "
            f"{model.info.name} ({model.fingerprint[:8]}…); find one in this model, or give the right --model"
        )


def halves(groups: Sequence[PromptPairs]) -> tuple[list[PromptPairs], list[PromptPairs]]:
    """Every other pair of each group, and the rest; a pair that comes twice counts once.

    Raises `PromptError` if there are fewer than two.
    """
    seen: set[tuple[int, ...]] = set()
    parts: tuple[list[PromptPairs], list[PromptPairs]] = ([], [])
    number = 0
    for group in groups:
        rows: tuple[list[int], list[int]] = ([], [])
        for row, pair in enumerate(torch.cat([group.clean, group.corrupted], dim=1).tolist()):
            if tuple(pair) not in seen:
                seen.add(tuple(pair))
                rows[number % 2].append(row)
                number += 1
        for part, some in zip(parts, rows, strict=True):
            if some:
                part.append(_rows(group, some))
    if not parts[1]:
        raise PromptError("one half of the prompts is held out, so there must be at least two that differ")
    return parts


def _rows(group: PromptPairs, rows: list[int]) -> PromptPairs:
    columns = {name: getattr(group, name)[rows] for name in ("clean", "corrupted", "answers", "distractors")}
    return replace(group, **columns, right=None if group.right is None else group.right[rows])


def make_ablation(name: str, model: HookedModel, references: Sequence[PromptPairs]) -> Ablation:
    """An ablation by name; for the mean, over the clean prompts of `references`."""
    return mean_ablation(model, [group.clean for group in references]) if name == "mean" else ablation_named(name)


def how_many(share_or_number: float, n_edges: int) -> int:
    """Edges to keep: up to 1 a share of `n_edges`, above a number. Raises `SettingError` if there are not so many."""
    count = int(share_or_number * n_edges) if share_or_number <= 1 else int(share_or_number)
    if not 1 <= count <= n_edges:
        raise SettingError(f"edges is {share_or_number:g}; this model has {n_edges:,} edges, and at least one is kept")
    return count


def discover(
    model: HookedModel,
    task: Task,
    method: str = "eap-ig",
    *,
    edges: float = 0.1,
    ablation: str = "resample",
    ranking: str = "signed",
    n: int = 100,
    seed: int = 0,
) -> Discovery:
    """Score all edges on `n` prompts of a task, keep the first `edges` (share or number), and test on `n` others.

    Raises `SettingError` for an unknown method, ablation or number, `PromptError` for a task that the model
    has no words for.
    """
    used, held_out = halves(task.prompts(model, 2 * n, seed=seed))
    filling = make_ablation(ablation, model, used)
    experiment = Experiment(model, used, task.metric, filling)
    count = how_many(edges, experiment.graph.n_edges)
    scores = score_edges(experiment, method, n_edges=count, seed=seed)
    circuit = scores.circuit(count, ranking)
    facts = {**circuit.facts, "task": task.name, "seed": seed, "fingerprint": model.fingerprint}
    circuit = replace(circuit, facts=facts)
    test = Experiment(model, held_out, task.metric, filling)
    evaluation = evaluate(test, circuit, model, n_edges=count, seed=seed)
    return Discovery(circuit, scores, evaluation, curves(test, scores), random_curves(test, seed=seed))


def evaluate(
    experiment: Experiment, circuit: Circuit, model: HookedModel, *, n_edges: int | None = None, seed: int = 0
) -> Evaluation:
    """What a circuit does on an experiment's prompts, beside random circuits of `n_edges` (its own number of) edges."""
    values, kl = measure(experiment, circuit.edges)
    f = float(recovered(experiment, values))
    baseline = random_baseline(experiment, circuit.n_edges if n_edges is None else n_edges, seed=seed)
    return Evaluation(
        f,
        float(kl),
        float(experiment.clean.mean()),
        float(values.mean()),
        float(experiment.ablated.mean()),
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
