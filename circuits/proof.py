"""A proof: faithfulness, completeness and minimality of a circuit on prompts that it was not found on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.choice import chosen_again
from circuits.circuit import Circuit
from circuits.completeness import Completeness, Minimality, completeness, greedy_sets, minimality, random_sets
from circuits.discovery import Discovery, make_ablation, what
from circuits.evaluation import Evaluation, evaluate
from circuits.experiment import Experiment
from circuits.held_out import without
from circuits.positions import check_aligned
from circuits.tasks.task import Task
from saes.sae import SAE
from workbench.errors import PromptError, SettingError
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

HARDEST = 3
"""Prompts that are printed."""


@dataclass(frozen=True, eq=False)
class Proof:
    """What a circuit does on prompts that it was not found on."""

    circuit: Circuit
    prompts: str
    """Where they are from."""
    left_out: int
    """Prompts from there that the circuit was found on, or that came twice."""
    evaluation: Evaluation
    completeness: Completeness
    minimality: Minimality

    def __str__(self) -> str:
        lines = [
            f"Circuit of {what(self.circuit)}, {self.circuit.n_edges:,} edges, on {len(self.evaluation.examples)} "
            f"prompts of {self.prompts}, none of which it was found on ({self.left_out} left out)"
        ]
        lines += [f"  {line}" for line in str(self.evaluation).split("\n")]
        worst = self.evaluation.examples[:HARDEST]
        lines += ["  hardest prompts:", *(f"    {one.f:6.2f}  {one.prompt} [{one.answer.strip()}]" for one in worst)]
        return "\n".join([*lines, "", str(self.completeness), "", str(self.minimality)])

    def to_dict(self) -> dict[str, Any]:
        low, high = self.evaluation.baseline.interval
        nodes = zip(self.minimality.nodes, self.minimality.difference.tolist(), self.minimality.sets, strict=True)
        return {
            "facts": dict(self.circuit.facts),
            "prompts": self.prompts,
            "left_out": self.left_out,
            "evaluation": self.evaluation.to_json(),
            "random": {"low": low, "high": high, "p": self.evaluation.baseline.p_value},
            "completeness": self.completeness.to_json(),
            "minimality": [{"node": node, "difference": value, "without": without} for node, value, without in nodes],
        }


def prove(
    found: Discovery,
    model: HookedModel,
    task: Task,
    groups: Sequence[PromptPairs],
    *,
    source: str,
    saes: Mapping[int, SAE] | None = None,
    seed: int = 0,
) -> Proof:
    """Test a circuit on those of some prompts that its edges were not scored on. `source` says where they are from.

    `saes`: by layer, those whose latents are nodes of the circuit. Raises `PromptError` if there are no such prompts,
    `SettingError` for a circuit by position on prompts of another length, and for latents without their SAE.
    """
    fresh = without(groups, found.found_on)
    given, count = sum(map(len, groups)), sum(map(len, fresh))
    if not fresh:
        raise PromptError(f"the circuit was found on all of the {given} prompts of {source}; it is tested on others")
    circuit, facts = found.circuit, found.circuit.facts
    if circuit.by_position:
        check_aligned(fresh, source)
    units = chosen_again(circuit.graph.sources, saes or {})
    filling = make_ablation(facts["ablation"], model, fresh, units)
    experiment = Experiment(model, fresh, task.metric, filling, units=units)
    if circuit.by_position and experiment.length != len(circuit.edges):
        raise SettingError(f"the circuit has {len(circuit.edges)} positions, and {source} {experiment.length}")
    sets = random_sets(circuit, seed=seed)
    hardest = greedy_sets(experiment, circuit, runs=3, candidates=5, steps=5, seed=seed)
    return Proof(
        circuit,
        source,
        given - count,
        evaluate(experiment, circuit, model, n_edges=facts["n_edges"], seed=seed),
        completeness(experiment, circuit, sets | hardest),
        minimality(experiment, circuit, dict(list(sets.items())[:5])),
    )
