"""One page about a circuit: its graph, its numbers, the prompts that break it."""

from circuits.discovery import Discovery, what
from workbench.figures import circuit as figures
from workbench.figures import faithfulness
from workbench.figures.page import Table, page

STRONGEST, HARDEST = 20, 12
"""Rows of the tables of edges and of prompts."""


def report(found: Discovery) -> str:
    """HTML that opens without a network."""
    facts, graph, evaluation = found.circuit.facts, found.circuit.graph, found.evaluation
    low, high = (round(end, 3) + 0.0 for end in evaluation.baseline.interval)  # no minus before a zero
    p = evaluation.baseline.p_value
    numbers = [
        (
            "Edges",
            f"{found.circuit.n_edges:,}",
            f"of {found.circuit.n_possible:,}; {facts['n_edges']:,} before pruning",
        ),
        ("Nodes", f"{len(found.circuit.nodes)}", f"of {len(graph.sources)}"),
        ("Faithfulness", f"{evaluation.f:.3f}", f"random {low:.3f} to {high:.3f}, p = {p:.2g}"),
        ("KL from the model", f"{evaluation.kl:.3f}", "nats, the next token"),
        ("CPR, higher is better", f"{found.curves.cpr:.3f}", f"random {found.random.cpr:.3f}"),
        ("CMD, lower is better", f"{found.curves.cmd:.3f}", f"random {found.random.cmd:.3f}"),
    ]
    return page(
        f"Circuit of {what(found.circuit)}",
        f"Edges scored by {facts['method']} on {facts['examples']} prompts, {facts['ranking']} ranking, "
        f"{facts['ablation']} ablation, {facts['metric'].replace('_', ' ')}; measured on {len(evaluation.examples)} "
        "prompts held out.",
        numbers,
        [
            figures.graph(found.circuit, found.scores),
            *([figures.positions(found.circuit, found.scores)] if found.circuit.by_position else []),
            faithfulness.curves([found.curves], found.random),
            figures.heat(found.scores),
            _edges(found),
            _prompts(found),
        ],
    )


def _edges(found: Discovery) -> Table:
    graph, values = found.circuit.graph, found.scores.importance("signed")
    values, inside = (x.sum(0) if x.ndim > 2 else x for x in (values, found.circuit.edges.int()))
    order = (values * (inside > 0)).abs().flatten().argsort(descending=True)[:STRONGEST].tolist()
    places = [place for place in (divmod(index, values.shape[1]) for index in order) if inside[place]]
    rows = [(graph.sources[s], graph.destinations[d], float(values[d, s])) for d, s in places]
    text = f"Of the circuit, by {found.scores.kind}; above 0 is for the answer."
    return Table("The strongest edges", text, ("from", "to", "score"), rows)


def _prompts(found: Discovery) -> Table:
    rows = [
        (one.prompt, one.answer.strip(), one.distractor.strip(), one.clean, one.circuit, one.f)
        for one in found.evaluation.examples[:HARDEST]
    ]
    text = (
        "Those held out on which the circuit falls furthest behind the model. f is 1 less the shortfall as a share of "
        "the gap that the whole task has; its mean over all prompts is the circuit's faithfulness."
    )
    return Table("The prompts that break it", text, ("prompt", "answer", "distractor", "model", "circuit", "f"), rows)
