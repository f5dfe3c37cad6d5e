"""The circuit commands as a person meets them."""

from dataclasses import dataclass, replace
from pathlib import Path

from circuits.circuit import Circuit
from circuits.completeness import Completeness, Minimality, completeness, greedy_sets, minimality, random_sets
from circuits.discovery import (
    Discovery,
    Evaluation,
    check_free,
    check_model,
    discover,
    evaluate,
    halves,
    load_discovery,
    make_ablation,
)
from circuits.experiment import Experiment
from circuits.options import FindOptions, ScoreOptions, ShowOptions
from circuits.report import report
from circuits.tasks.registry import task_named, task_of_file
from workbench.files import write_text
from workbench.model import load_model


@dataclass(frozen=True, eq=False)
class CircuitScore:
    """A circuit on fresh prompts."""

    circuit: Circuit
    prompts: str
    evaluation: Evaluation
    completeness: Completeness
    minimality: Minimality

    def __str__(self) -> str:
        facts = self.circuit.facts
        head = f"Circuit of {facts['task']} in {facts['model']}, {self.circuit.n_edges:,} edges, on {self.prompts}"
        worst = self.evaluation.examples[:3]
        lines = [head, *(f"  {line}" for line in str(self.evaluation).split("\n"))]
        lines += ["  hardest prompts:", *(f"    {one.f:6.2f}  {one.prompt} [{one.answer.strip()}]" for one in worst)]
        return "\n".join([*lines, "", str(self.completeness), "", str(self.minimality)])

    def to_dict(self) -> dict:
        evaluation = {name: getattr(self.evaluation, name) for name in ("f", "kl", "clean", "circuit", "ablated")}
        low, high = self.evaluation.baseline.interval
        nodes = zip(self.minimality.nodes, self.minimality.difference.tolist(), self.minimality.sets, strict=True)
        return {
            "facts": dict(self.circuit.facts),
            "prompts": self.prompts,
            **evaluation,
            "random": {"low": low, "high": high, "p": self.evaluation.baseline.p_value},
            "completeness": self.completeness.to_json(),
            "minimality": [{"node": node, "difference": value, "without": without} for node, value, without in nodes],
            "examples": [vars(example) for example in self.evaluation.examples],
        }


@dataclass(frozen=True)
class Shown:
    """Where a page was written."""

    page: Path

    def __str__(self) -> str:
        return f"Wrote {self.page}"


def find(options: FindOptions) -> Discovery:
    """Raises `WorkbenchError`s, those of `--out` before the work begins."""
    if options.out is not None:
        check_free(options.out)
    model = load_model(options.model)
    task = task_named(options.task, model) if options.prompts is None else task_of_file(options.prompts)
    found = discover(
        model,
        task,
        options.method,
        edges=options.edges,
        ablation=options.ablation,
        ranking="absolute" if options.absolute else "signed",
        n=options.examples,
        seed=options.seed,
    )
    whence = {"source": options.model, "prompts": None if options.prompts is None else str(options.prompts)}
    found = replace(found, circuit=replace(found.circuit, facts={**found.circuit.facts, **whence}))
    if options.out is not None:
        found.save(options.out)
    return found


def score(options: ScoreOptions) -> CircuitScore:
    """Raises `ModelError` for another model than the circuit's."""
    circuit = load_discovery(options.circuit).circuit
    facts = circuit.facts
    model = load_model(options.model or facts["source"])
    check_model(circuit, model)
    seed = facts["seed"] + 1 if options.seed is None else options.seed
    path = str(options.prompts) if options.prompts else facts["prompts"]
    task = task_of_file(path) if path else task_named(facts["task"], model)
    pairs = task.prompts(model, options.examples, seed=seed)
    if path and path == facts["prompts"]:  # half of it is what the circuit was found on
        pairs = halves(pairs)[1]
    experiment = Experiment(model, pairs, task.metric, make_ablation(facts["ablation"], model, pairs))
    sets = random_sets(circuit, seed=seed)
    hardest = greedy_sets(experiment, circuit, runs=3, candidates=5, steps=5, seed=seed)
    return CircuitScore(
        circuit,
        f"{len(experiment)} prompts of {path or f'seed {seed}'}",
        evaluate(experiment, circuit, model, n_edges=facts["n_edges"], seed=seed),
        completeness(experiment, circuit, sets | hardest),
        minimality(experiment, circuit, dict(list(sets.items())[:5])),
    )


def show(options: ShowOptions) -> Shown:
    found = load_discovery(options.circuit)
    page = options.out or options.circuit / "report.html"
    write_text(page, report(found))
    return Shown(page)
