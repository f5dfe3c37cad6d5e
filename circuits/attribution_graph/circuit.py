"""Feature circuits: the nodes and links that are left of an attribution graph when it has been pruned."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from circuits.attribution_graph.influence import Scores

KINDS = ("latent", "error", "embedding", "logit")


class Node(NamedTuple):
    kind: str
    """One of `KINDS`."""
    layer: int
    """-1 for embeddings, the number of layers for logits."""
    position: int
    index: int
    """The latent's number, or the token of an embedding or a logit; -1 for an error."""
    value: float | None
    """A latent's activation, a logit's probability; None for the others, and where a file does not say."""
    cumulative: float | None
    """The share of all influence that this node and those with more of it have: the lower, the more it matters. None
    for logits, and where a file does not say."""
    label: str = ""
    """The token of an embedding or a logit; for a latent what it stands for, if that is known."""

    @property
    def name(self) -> str:
        """Short and unambiguous: `L2#417@5` is latent 417 of layer 2 at position 5."""
        forms = {
            "latent": f"L{self.layer}#{self.index}@{self.position}",
            "error": f"error L{self.layer}@{self.position}",
            "embedding": f"{self.label!r}@{self.position}",
            "logit": f"→ {self.label!r}",
        }
        return forms[self.kind]


@dataclass(frozen=True, eq=False)
class FeatureCircuit:
    """A pruned attribution graph. Links are three columns: numbers of two nodes, and the edge's signed weight."""

    model: str
    strings: list[str]
    """The prompt's tokens."""
    prompt: str
    n_layers: int
    transcoders: list[str]
    """What stands for each MLP, in order of the layers."""
    nodes: list[Node]
    sources: Int[Tensor, " link"]
    targets: Int[Tensor, " link"]
    weights: Float[Tensor, " link"]
    node_share: float | None
    edge_share: float | None
    """The shares of influence that pruning kept; None where a file does not say."""
    scores: Scores | None
    """Of the whole graph; None where a file does not say."""

    def of_kind(self, kind: str) -> list[Node]:
        return [node for node in self.nodes if node.kind == kind]

    def labelled(self, labels: Mapping[tuple[int, int], str]) -> "FeatureCircuit":
        """The same with labels for latents, by layer and index."""
        nodes = [
            node._replace(label=labels.get((node.layer, node.index), node.label)) if node.kind == "latent" else node
            for node in self.nodes
        ]
        return replace(self, nodes=nodes)

    def into(self, number: int) -> list[tuple[Node, float]]:
        """What is linked into a node, the strongest first."""
        return self._ranked(self.targets == number, self.sources)

    def out_of(self, number: int) -> list[tuple[Node, float]]:
        """What a node is linked to, the strongest first."""
        return self._ranked(self.sources == number, self.targets)

    def _ranked(self, chosen: Tensor, ends: Tensor) -> list[tuple[Node, float]]:
        weights, others = self.weights[chosen], ends[chosen]
        order = weights.abs().argsort(descending=True, stable=True)
        return [(self.nodes[other], weights[i].item()) for i, other in zip(order, others[order].tolist(), strict=True)]

    def to_dict(self) -> dict:
        links = zip(self.sources.tolist(), self.targets.tolist(), self.weights.tolist(), strict=True)
        return {
            "model": self.model,
            "prompt": self.prompt,
            "strings": self.strings,
            "transcoders": self.transcoders,
            "node_share": self.node_share,
            "edge_share": self.edge_share,
            "scores": self.scores and self.scores._asdict(),
            "nodes": [node._asdict() for node in self.nodes],
            "links": [{"source": source, "target": target, "weight": weight} for source, target, weight in links],
        }

    def __str__(self) -> str:
        """The counts, the scores, and what feeds the likeliest logit."""
        numbers = {kind: len(self.of_kind(kind)) for kind in KINDS}
        counts = ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in numbers.items())
        lines = [f"Feature circuit of {self.model} on {self.prompt!r}"]
        lines.append(f"  {counts}, {len(self.weights):,} links")
        if self.scores:
            explained = "replacement score {:.3f}, completeness {:.3f}".format(*self.scores)
            lines.append(f"  {explained} (of the whole graph; 1: no influence of errors)")
        for number, node in enumerate(self.nodes):
            if node.kind == "logit":
                probability = "" if node.value is None else f" (p {node.value:.3f})"
                lines.append(f"  {node.name}{probability} comes from")
                lines += [f"    {weight:+8.3f}  {source.name}" for source, weight in self.into(number)[:8]]
        return "\n".join(lines)
