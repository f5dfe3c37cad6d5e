"""Feature circuits as files that circuit-tracer and Neuronpedia show, and such files as feature circuits.

One JSON object: `metadata`, `qParams` (the state of the viewer), `nodes`, `links`. A node's `feature` pairs layer and
index into one number (Cantor's pairing), a logit's layer counts from one past the layers, an error's index is -1, and
`influence` is the cumulative share by which the viewer prunes.
"""

import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from circuits.attribution_graph.circuit import FeatureCircuit, Node
from circuits.attribution_graph.influence import Scores
from workbench.errors import DamagedFile
from workbench.files import read_json, write_json

TYPES = {
    "latent": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "embedding": "embedding",
    "logit": "logit",
}
"""`feature_type` of each kind of node."""

METADATA = {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str}
NODE = {"node_id": str, "layer": str | int, "ctx_idx": int, "feature_type": str, "jsNodeId": str, "clerp": str}
LINK = {"source": str, "target": str, "weight": int | float}


def save_circuit(circuit: FeatureCircuit, path: str | Path, *, slug: str | None = None) -> None:
    """Write a circuit for circuit-tracer's viewer or Neuronpedia. `slug`: its name there; by default the file's."""
    ids = [_id(node) for node in circuit.nodes]
    links = zip(circuit.sources.tolist(), circuit.targets.tolist(), circuit.weights.tolist(), strict=True)
    write_json(
        path,
        {
            "metadata": _metadata(circuit, slug or Path(path).stem),
            "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
            "nodes": _nodes(circuit, ids),
            "links": [
                {"source": ids[source], "target": ids[target], "weight": weight} for source, target, weight in links
            ],
        },
    )


def _metadata(circuit: FeatureCircuit, slug: str) -> dict[str, Any]:
    scores = circuit.scores and {f"{name}_score": value for name, value in circuit.scores._asdict().items()}
    return {
        "slug": slug,
        "scan": circuit.model,
        "transcoder_list": circuit.transcoders,
        "prompt_tokens": circuit.strings,
        "prompt": circuit.prompt,
        "node_threshold": circuit.node_share,
        "schema_version": 1,
        "info": {"generator": {"name": "Interp Workbench", "version": version("interp-workbench")}},
        "generation_settings": scores or {},
        "pruning_settings": {"node_threshold": circuit.node_share, "edge_threshold": circuit.edge_share}
        if circuit.edge_share is not None
        else {},
    }


def _nodes(circuit: FeatureCircuit, ids: list[str]) -> list[dict[str, Any]]:
    likeliest = max((node.value or 0.0 for node in circuit.of_kind("logit")), default=0.0)
    return [
        {
            "node_id": identity,
            "feature": _feature(node),
            "layer": _layer(node),
            "ctx_idx": node.position,
            "feature_type": TYPES[node.kind],
            "token_prob": (node.value or 0.0) if node.kind == "logit" else 0.0,
            "is_target_logit": node.kind == "logit" and (node.value or 0.0) == likeliest,
            "run_idx": 0,
            "reverse_ctx_idx": 0,
            "jsNodeId": _viewer_id(node),
            "clerp": f'Output "{node.label}" (p={node.value or 0.0:.3f})' if node.kind == "logit" else node.label,
            "influence": node.cumulative,
            "activation": node.value if node.kind == "latent" else None,
        }
        for node, identity in zip(circuit.nodes, ids, strict=True)
    ]


def _id(node: Node) -> str:
    return f"{_layer(node)}_{node.index}_{node.position}"


def _viewer_id(node: Node) -> str:
    """Nodes that share one are one feature to the viewer."""
    where = 0 if node.kind == "latent" else node.position
    return f"{'L' if node.kind == 'logit' else _layer(node)}_{node.index}-{where}"


def _layer(node: Node) -> str:
    return {"embedding": "E", "logit": str(node.layer + 1)}.get(node.kind, str(node.layer))


def _feature(node: Node) -> int:
    if node.kind == "latent":
        both = node.layer + node.index
        return both * (both + 1) // 2 + node.index
    return node.position if node.kind == "embedding" else node.index


def load_circuit(path: str | Path) -> FeatureCircuit:
    """Read a graph that this workbench, circuit-tracer or Neuronpedia wrote.

    Raises `DamagedFile`, naming the field, for a file that is not one.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is not an attribution graph: it should be one JSON object")
    for name, kind in (("metadata", dict), ("nodes", list), ("links", list)):
        if not isinstance(content.get(name), kind):
            raise DamagedFile(f"{path} is not an attribution graph: it has no {name}")
    metadata = content["metadata"]
    _check(metadata, METADATA, f"{path}: metadata")
    if not all(isinstance(token, str) for token in metadata["prompt_tokens"]):
        raise DamagedFile(f"{path}: metadata.prompt_tokens must be texts")
    n_positions = len(metadata["prompt_tokens"])
    nodes = [_node(node, f"{path}: nodes[{i}]", n_positions) for i, node in enumerate(content["nodes"])]
    number = {node["node_id"]: i for i, node in enumerate(content["nodes"])}
    if len(number) < len(nodes):
        raise DamagedFile(f"{path}: two nodes have one node_id")
    sources, targets, weights = _links(content["links"], number, path)
    pruning = metadata.get("pruning_settings") or {}
    return FeatureCircuit(
        model=metadata["scan"],
        strings=metadata["prompt_tokens"],
        prompt=metadata["prompt"],
        n_layers=_n_layers(nodes),
        transcoders=list(metadata.get("transcoder_list") or []),
        nodes=nodes,
        sources=torch.tensor(sources, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        weights=torch.tensor(weights, dtype=torch.float32),
        node_share=_number(metadata.get("node_threshold", pruning.get("node_threshold"))),
        edge_share=_number(pruning.get("edge_threshold")),
        scores=_scores(metadata.get("generation_settings") or {}),
    )


def _check(record: Any, fields: Mapping[str, Any], where: str) -> None:
    if not isinstance(record, dict):
        raise DamagedFile(f"{where} must be an object with {', '.join(fields)}")
    for name, kind in fields.items():
        if name not in record:
            raise DamagedFile(f"{where} lacks {name!r}")
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            wanted = getattr(kind, "__name__", str(kind))
            raise DamagedFile(f"{where}.{name} must be of type {wanted}, not {record[name]!r}")


def _node(record: Any, where: str, n_positions: int) -> Node:
    _check(record, NODE, where)
    kind = next((kind for kind, name in TYPES.items() if name == record["feature_type"]), None)
    if kind is None:
        raise DamagedFile(f"{where}.feature_type is {record['feature_type']!r}; known are {', '.join(TYPES.values())}")
    if not 0 <= record["ctx_idx"] < n_positions:
        raise DamagedFile(f"{where}.ctx_idx is {record['ctx_idx']}, and the prompt has {n_positions} tokens")
    layer, index = (-1 if kind == "embedding" else record["layer"]), -1
    try:
        layer = int(layer) - (kind == "logit")
        if kind != "error":
            index = int(record["node_id"].split("_")[1])
    except (ValueError, IndexError):
        raise DamagedFile(
            f"{where} has the layer {record['layer']!r} and the node_id {record['node_id']!r}; "
            "they should read like 3 and 3_417_5"
        ) from None
    label, value = record["clerp"], _number(record.get("activation"))
    if kind == "logit":
        label, value = _output(label), _number(record.get("token_prob"))
    return Node(kind, layer, record["ctx_idx"], index, value, _number(record.get("influence")), label)


def _output(clerp: str) -> str:
    """The token in `Output "token" (p=0.123)`."""
    start, end = clerp.find('"'), clerp.rfind('"')
    return clerp[start + 1 : end] if start < end else clerp


def _links(links: list[Any], number: Mapping[str, int], path: str | Path) -> tuple[list, list, list]:
    sources, targets, weights = [], [], []
    for i, link in enumerate(links):
        where = f"{path}: links[{i}]"
        _check(link, LINK, where)
        for end in ("source", "target"):
            if link[end] not in number:
                raise DamagedFile(f"{where}.{end} is {link[end]!r}, and no node has this node_id")
        if not math.isfinite(link["weight"]):
            raise DamagedFile(f"{where}.weight is {link['weight']}")
        sources.append(number[link["source"]])
        targets.append(number[link["target"]])
        weights.append(link["weight"])
    return sources, targets, weights


def _n_layers(nodes: list[Node]) -> int:
    return max((node.layer + (node.kind != "logit") for node in nodes), default=0)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _scores(settings: Mapping[str, Any]) -> Scores | None:
    values = [_number(settings.get(f"{name}_score")) for name in Scores._fields]
    return None if None in values else Scores(*values)
