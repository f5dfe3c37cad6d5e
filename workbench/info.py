"""The facts of a model."""

from dataclasses import dataclass

from transformer_lens.model_bridge import TransformerBridge

_POSITIONAL = {"standard": "learned", "shortformer": "learned", "rotary": "rotary", "alibi": "alibi"}


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model from its configuration. Widths count units; None where there is no such part."""

    name: str
    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    """Heads of keys and values; fewer than `n_heads` under grouped-query attention."""
    d_model: int
    d_head: int
    d_mlp: int | None
    """Width of the hidden layer of the MLP, or of one expert."""
    d_vocab: int
    n_ctx: int
    """The most tokens that a prompt may have."""
    positional: str
    """How positions enter: 'learned', 'rotary', 'alibi', or the library's own word for anything else."""
    normalization: str
    """'LN', 'RMS', …, or 'none'."""
    n_parameters: int
    n_experts: int | None


def facts(bridge: TransformerBridge, name: str) -> ModelInfo:
    """Read the facts of a model off its bridge."""
    cfg = bridge.cfg
    positional = str(cfg.positional_embedding_type)
    return ModelInfo(
        name=name,
        architecture=str(cfg.architecture),
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=None if cfg.attn_only else cfg.d_mlp,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        positional=_POSITIONAL.get(positional, positional),
        normalization=cfg.normalization_type or "none",
        n_parameters=sum(parameter.numel() for parameter in bridge.original_model.parameters()),
        n_experts=getattr(cfg, "num_experts", None),
    )
