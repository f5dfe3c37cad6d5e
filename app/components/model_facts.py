"""The facts of the open model."""

from typing import TYPE_CHECKING

from dash import html

from app.components.facts import count, facts

if TYPE_CHECKING:
    from workbench.model import ModelInfo


def model_facts(info: "ModelInfo") -> html.Dl:
    """Its sizes and its kind."""
    shared = info.n_kv_heads and info.n_kv_heads != info.n_heads
    return facts(
        {
            "architecture": info.architecture,
            "parameters": count(info.n_parameters),
            "layers": info.n_layers,
            "heads a layer": f"{info.n_heads} ({info.n_kv_heads} key–value)" if shared else info.n_heads,
            "d_model": info.d_model,
            "d_mlp": info.d_mlp,
            "experts": info.n_experts or None,
            "vocabulary": f"{info.d_vocab:,}",
            "context": f"{info.n_ctx:,} tokens" if info.n_ctx else None,
            "positions": info.positional,
            "normalisation": info.normalization,
        }
    )
