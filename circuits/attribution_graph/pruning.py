"""Pruning: from an attribution graph to the few nodes and edges that carry most of the influence on its logits."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.attribution_graph.circuit import FeatureCircuit, Node
from circuits.attribution_graph.graph import AttributionGraph
from circuits.attribution_graph.influence import influence, most, shares
from workbench.errors import SettingError


def prune(graph: AttributionGraph, *, nodes: float = 0.8, edges: float = 0.98) -> FeatureCircuit:
    """The nodes that have the share `nodes` of all influence, and the edges that have `edges` of what is left.

    Embeddings and logits stay. Then nodes go, in turn, from which or into which no edge leads any more.
    Raises `SettingError` for shares outside 0 to 1.
    """
    if not (0 <= nodes <= 1 and 0 <= edges <= 1):
        raise SettingError(f"nodes is {nodes} and edges {edges}; they are shares of the influence, between 0 and 1")
    n = graph.n_latents
    reached = influence(shares(graph.edges), graph.probabilities)
    kept = most(reached, nodes)
    kept[graph.first_embedding :] = True
    targets = torch.cat([kept[:n], torch.ones(len(graph.probabilities), dtype=torch.bool)])
    part = shares(graph.edges * targets[:, None] * kept)
    flow = torch.cat([influence(part, graph.probabilities)[:n], graph.probabilities])
    links = most(part * flow[:, None], edges)
    _drop_loose_ends(links, kept, n, graph.first_embedding)
    return _circuit(graph, reached, kept, links, nodes, edges)


def _drop_loose_ends(
    links: Bool[Tensor, "target source"], kept: Bool[Tensor, " source"], n_latents: int, first_embedding: int
) -> None:
    """In place: latents need links in and out, errors out; what a dropped latent was linked to may lose its own."""
    while True:
        before = int(kept.sum())
        kept[:first_embedding] &= links[:, :first_embedding].any(0)
        kept[:n_latents] &= links[:n_latents].any(1)
        links[:n_latents] &= kept[:n_latents, None]
        links &= kept
        if int(kept.sum()) == before:
            return


def _circuit(
    graph: AttributionGraph,
    reached: Float[Tensor, " source"],
    kept: Bool[Tensor, " source"],
    links: Bool[Tensor, "target source"],
    node_share: float,
    edge_share: float,
) -> FeatureCircuit:
    n_latents, n_logits = graph.n_latents, len(graph.probabilities)
    ordered, order = reached.sort(descending=True)
    cumulative = torch.empty_like(reached)
    cumulative[order] = ordered.cumsum(0) / ordered.sum()
    chosen = kept.nonzero()[:, 0]
    number = torch.full((len(kept),), -1)
    number[chosen] = torch.arange(len(chosen))
    of_target = torch.cat([number[:n_latents], len(chosen) + torch.arange(n_logits)])
    targets, sources = links.nonzero(as_tuple=True)
    nodes = [_node(graph, source, cumulative[source].item()) for source in chosen.tolist()]
    logits = zip(graph.logit_tokens.tolist(), graph.probabilities.tolist(), graph.logit_strings, strict=True)
    last = graph.n_positions - 1
    nodes += [Node("logit", graph.n_layers, last, token, share, None, text) for token, share, text in logits]
    return FeatureCircuit(
        model=graph.model,
        strings=graph.strings,
        prompt=graph.prompt,
        n_layers=graph.n_layers,
        transcoders=graph.transcoders,
        nodes=nodes,
        sources=number[sources],
        targets=of_target[targets],
        weights=graph.edges[targets, sources],
        node_share=node_share,
        edge_share=edge_share,
        scores=graph.scores,
    )


def _node(graph: AttributionGraph, source: int, cumulative: float) -> Node:
    if source < graph.n_latents:
        layer, position, index = graph.latents[source].tolist()
        return Node("latent", layer, position, index, graph.activations[source].item(), cumulative)
    layer, position = divmod(source - graph.n_latents, graph.n_positions)
    if source < graph.first_embedding:
        return Node("error", layer, position, -1, None, cumulative)
    token = int(graph.tokens[position])
    return Node("embedding", -1, position, token, None, cumulative, graph.strings[position])
