"""Sites: the named places in a model where activations are captured and edited.

Names are spelled as HookedTransformer spells them (`blocks.3.hook_resid_post`, `blocks.3.attn.hook_z`); in a pattern,
`*` stands for any layer (`blocks.*.attn.hook_pattern`).
"""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from workbench.errors import UnknownSite

_OF_MODEL = ("hook_embed", "hook_pos_embed", "ln_final.hook_scale", "ln_final.hook_normalized")
_OF_BLOCK = (
    *("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"),
    *("ln1.hook_scale", "ln1.hook_normalized", "ln2.hook_scale", "ln2.hook_normalized"),
    *("ln1_post.hook_scale", "ln2_post.hook_scale"),
    *("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_rot_q", "attn.hook_rot_k"),
    *("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z"),
    *("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"),
)


class Axes(NamedTuple):
    """Which axes of the activation at a site count positions and heads."""

    position: int
    head: int | None


def axes(site: str) -> Axes:
    """Axes of a site: [batch pos d], [batch pos head d], or [batch head query key] with queries as positions."""
    name = site.rpartition(".")[2]
    if name in ("hook_pattern", "hook_attn_scores"):
        return Axes(position=2, head=1)
    if name in ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k"):
        return Axes(position=1, head=2)
    return Axes(position=1, head=None)


def vocabulary(n_layers: int) -> tuple[str, ...]:
    """Every site name that a model of `n_layers` layers might have."""
    return _OF_MODEL + tuple(f"blocks.{layer}.{name}" for layer in range(n_layers) for name in _OF_BLOCK)


def layer_of(site: str) -> int | None:
    """The layer that a site belongs to; None for the embeddings and the final norm."""
    match = re.match(r"blocks\.(\d+)\.", site)
    return int(match[1]) if match else None


def expand(patterns: str | Iterable[str], sites: Sequence[str]) -> tuple[str, ...]:
    """The sites that the patterns name, in the order of the patterns and without repeats.

    Raises `UnknownSite`, with the nearest names, for a pattern that names none of `sites`.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return tuple(dict.fromkeys(site for pattern in patterns for site in _matches(pattern, sites)))


def _matches(pattern: str, sites: Sequence[str]) -> list[str]:
    if "*" not in pattern:
        found = [pattern] if pattern in sites else []
    else:
        regex = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
        found = [site for site in sites if regex.fullmatch(site)]
    if not found:
        raise UnknownSite(f"this model has no site {pattern!r}{_suggestion(pattern, sites)}")
    return found


def _suggestion(pattern: str, sites: Sequence[str]) -> str:
    layers = {layer for site in sites if (layer := layer_of(site)) is not None}
    known = [re.sub(r"\.\d+\.", ".*.", site, count=1) for site in sites] if "*" in pattern else sites
    near = get_close_matches(pattern, dict.fromkeys(known), n=3, cutoff=0.5)
    layer = layer_of(pattern)
    if layer is not None and layer not in layers and layers:
        return f": its layers are 0 to {max(layers)}"
    return f"; nearest: {', '.join(near)}" if near else f"; it has {', '.join(sites[:3])}, …"
