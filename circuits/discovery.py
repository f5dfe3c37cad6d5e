"""A discovery: a circuit, the scores that it was cut from, and what it does on prompts that were held out.

On disk a directory of circuit.json, scores.safetensors and evaluation.json, written whole or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from circuits.ablations import Ablation, ablation_named, mean_ablation
from circuits.choice import Choice
from circuits.circuit import Circuit, load_circuit
from circuits.curves import Curves, RandomCurves, curves, random_curves
from circuits.evaluation import Evaluation, evaluate, evaluation_from_json
from circuits.experiment import Experiment
from circuits.held_out import digests, draw, halves
from circuits.methods import score_edges
from circuits.optimal import optimal_ablation
from circuits.positions import check_aligned, labels
from circuits.scores.result import EdgeScores, load_scores
from circuits.strongest import strongest_units
from circuits.tasks.task import Task
from saes.sae import SAE
from workbench.errors import DamagedFile, ModelError, SettingError
from workbench.files import read_json, whole_directory, write_json
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

CIRCUIT, SCORES, EVALUATION = "circuit.json", "scores.safetensors", "evaluation.json"


@dataclass(frozen=True, eq=False)
class Discovery:
    """What `discover` finds."""

    circuit: Circuit
    scores: EdgeScores
    evaluation: Evaluation
    curves: Curves
    random: RandomCurves
    found_on: tuple[str, ...]
    """The digests (see `circuits.held_out`) of the pairs that the edges were scored on."""

    def __str__(self) -> str:
        facts, circuit = self.circuit.facts, self.circuit
        each = f"; {circuit.graph.n_edges:,} at each of {len(circuit.edges)} positions" if circuit.by_position else ""
        lines = [
            f"Circuit of {what(circuit)}: {facts['method']}, {facts['ranking']} ranking, {facts['ablation']} ablation",
            f"  edges  {facts['n_edges']:,} of {circuit.n_possible:,} ({facts['n_edges'] / circuit.n_possible:.1%}) "
            f"kept, {circuit.n_edges:,} of them on a path from the input to the logits{each}",
            f"  nodes  {len(circuit.nodes)} of {len(circuit.graph.sources)}: {_listed(circuit.nodes)}",
            *(f"  {line}" for line in f"held out: {self.evaluation}".split("\n")),
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
        circuit = self.circuit
        return {
            "facts": dict(circuit.facts),
            "n_edges": circuit.n_edges,
            "n_possible": circuit.n_possible,
            "nodes": circuit.nodes,
            "edges": circuit.names,
            "cpr": self.curves.cpr,
            "cmd": self.curves.cmd,
            "random_cpr": self.random.cpr,
            "random_cmd": self.random.cmd,
            "evaluation": self.evaluation.to_json(),
            "curves": self._curves(),
        }

    def save(self, directory: str | Path) -> None:
        """Write a new directory. Raises `SettingError` if there is something in it."""
        check_free(directory)
        value = {"evaluation": self.evaluation.to_json(), "curves": self._curves(), "found_on": list(self.found_on)}
        with whole_directory(directory) as stage:
            self.circuit.save(stage / CIRCUIT)
            self.scores.save(stage / SCORES)
            write_json(stage / EVALUATION, value)

    def _curves(self) -> dict[str, Any]:
        curve = self.curves
        return {
            "method": curve.method,
            "sizes": list(curve.sizes),
            "n_edges": list(curve.n_edges),
            "signed": curve.signed.tolist(),
            "absolute": curve.absolute.tolist(),
            "random": self.random.f.tolist(),
        }


def what(circuit: Circuit) -> str:
    """The task and the model of a circuit, in words."""
    facts = circuit.facts
    sentence = f" (sentence {facts['sentence']})" if facts.get("sentence") else ""
    return f"{facts['task']}{sentence} in {facts['model']}"


def _listed(names: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


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
        curve = Curves(given["method"], sizes, tuple(given["n_edges"]), signed, absolute)
        evaluation = evaluation_from_json(value["evaluation"])
        return Discovery(circuit, scores, evaluation, curve, RandomCurves(sizes, random), tuple(value["found_on"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"{path / EVALUATION} is damaged ({type(error).__name__}: {error})") from None


def check_model(circuit: Circuit, model: HookedModel) -> None:
    """Raises `ModelError` if a circuit was found in another model."""
    found = str(circuit.facts.get("fingerprint", ""))
    if found != model.fingerprint:
        raise ModelError(
            f"this circuit was found in {circuit.facts.get('model')} with fingerprint {found[:8]}…, not in "
            f"{model.info.name} ({model.fingerprint[:8]}…); find one in this model, or give the right --model"
        )


def make_ablation(
    name: str, model: HookedModel, references: Sequence[PromptPairs], units: Mapping[int, Choice] | None = None
) -> Ablation:
    """An ablation by name; the mean and the optimal one are of the clean prompts of `references`."""
    if name == "mean":
        return mean_ablation(model, [group.clean for group in references], units=units)
    if name == "optimal":
        return optimal_ablation(Experiment(model, references, units=units))
    return ablation_named(name)


def how_many(share_or_number: float, n_edges: int) -> int:
    """Edges to keep: up to 1 a share of `n_edges`, above a number. Raises `SettingError` if there are not so many."""
    count = int(share_or_number * n_edges) if share_or_number <= 1 else int(share_or_number)
    if not 1 <= count <= n_edges:
        raise SettingError(f"edges is {share_or_number:g}; there are {n_edges:,} edges, and at least one is kept")
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
    sentence: int | None = None,
    by_position: bool = False,
    units: int = 0,
    saes: Mapping[int, SAE] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Discovery:
    """Score all edges on `n` prompts of a task, keep the first `edges` (share or number), and test on `n` others.

    `sentence`: only that one of the task's sentences, counted from 1. `by_position`: the edges of each position for
    themselves, in prompts in which positions mean the same. `units`: so many neurons, those that matter most, are nodes
    of their own; or so many latents of `saes`, by layer. `facts`: JSON values that are noted in the circuit.

    Raises `SettingError` for an unknown method, ablation, number or sentence, and for positions that do not mean the
    same; `PromptError` for a task that the model has no words for.
    """
    drawn = draw(task, model, 2 * n, seed=seed, sentence=sentence)
    if by_position:
        check_aligned(drawn, task.name)
    used, held_out = halves(drawn)
    chosen = strongest_units(model, used, task.metric, units, saes) if units else None
    filling = make_ablation(ablation, model, used, chosen)
    experiment = Experiment(model, used, task.metric, filling, units=chosen)
    count = how_many(edges, experiment.graph.n_edges * (experiment.length if by_position else 1))
    scores = score_edges(experiment, method, n_edges=count, seed=seed, by_position=by_position)
    circuit = scores.circuit(count, ranking)
    about = {"task": task.name, "sentence": sentence, "seed": seed, "fingerprint": model.fingerprint, **(facts or {})}
    about |= {"positions": labels(used, model)} if by_position else {}
    circuit = replace(circuit, facts={**circuit.facts, **about})
    test = Experiment(model, held_out, task.metric, filling, units=chosen)
    return Discovery(
        circuit,
        scores,
        evaluate(test, circuit, model, n_edges=count, seed=seed),
        curves(test, scores),
        random_curves(test, seed=seed, by_position=by_position),
        tuple(digests(used)),
    )
