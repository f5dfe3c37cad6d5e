"""Read an SAE that sparsify (EleutherAI) saved: `<run>/<hookpoint>/` with sae.safetensors and cfg.json.

Its function is f = top k of relu(W (x - b_dec) + b), x_hat = f W_dec + b_dec (sparsify 1.3, `sparse_coder.py`).
W_dec is stored as [d_sae, d_in], which SAELens' own loader transposes by mistake.
"""

import re
from pathlib import Path
from typing import Any

from saes.formats.portable import PortableSAE, portable, take
from workbench.errors import DamagedFile
from workbench.files import read_json, read_tensors

WEIGHTS_FILE = "sae.safetensors"
_HOOKPOINT = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(?:\.(mlp|attn|self_attn|attention))?")
_SITES = {None: "hook_resid_post", "mlp": "hook_mlp_out"}


def is_sparsify(directory: Path) -> bool:
    return (directory / WEIGHTS_FILE).is_file()


def read_sparsify(directory: Path) -> PortableSAE:
    """The SAE of one hookpoint.

    Raises `DamagedFile` if a file is missing or damaged, or if the SAE is of a kind that SAELens' format has no name
    for: a transcoder of top k latents, a skip connection, or group-max latents.
    """
    path = directory / "cfg.json"
    cfg = read_json(path)
    if not isinstance(cfg, dict) or not isinstance(cfg.get("k"), int) or not isinstance(cfg.get("d_in"), int):
        raise DamagedFile(f"{path} is not a sparsify configuration: it must give d_in and k as whole numbers")
    odd = [name for name in ("transcode", "skip_connection") if cfg.get(name)]
    if cfg.get("activation", "topk") != "topk":
        odd.append(f"activation {cfg['activation']}")
    if odd:
        raise DamagedFile(f"{path} has {', '.join(odd)}; only sparsify's top-k autoencoders can be imported")
    d_in = cfg["d_in"]
    d_sae = cfg.get("num_latents") or d_in * cfg.get("expansion_factor", 32)
    weights = directory / WEIGHTS_FILE
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    found = take(read_tensors(weights), weights, shapes)
    tensors = {
        "W_enc": found["encoder.weight"].T,
        "b_enc": found["encoder.bias"],
        "W_dec": found["W_dec"],
        "b_dec": found["b_dec"],
    }
    return portable("topk", tensors, _metadata(directory), k=cfg["k"], rescale_acts_by_decoder_norm=False)


def _metadata(directory: Path) -> dict[str, Any]:
    place = directory.parent if directory.name.startswith("seed") else directory
    run = place.parent / "config.json"
    settings = read_json(run) if run.is_file() else {}
    return {
        "hook_name": _site(place.name),
        "model_name": settings.get("model"),
        "context_size": settings.get("ctx_len"),
        "dataset_path": settings.get("dataset"),
        "imported_from": "sparsify",
    }


def _site(hookpoint: str) -> str | None:
    """The site that a Hugging Face module's output is, where it is one."""
    match = _HOOKPOINT.fullmatch(hookpoint)
    return f"blocks.{match[1]}.{_SITES.get(match[2], 'hook_attn_out')}" if match else None
