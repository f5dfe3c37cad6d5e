"""SAEs on disk, in the format of SAELens 6: cfg.json and sae_weights.safetensors.

`sae_lens.SAE.load_from_disk` opens what `save_sae` writes, and `load_sae` opens what SAELens writes. Crosscoders and
TopK transcoders have the same files, but SAELens does not know them.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.architectures import ARCHITECTURES
from saes.sae import SAE, SAEConfig
from workbench.errors import DamagedFile
from workbench.files import read_json, read_tensors, write_json, write_tensors

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

FORMAT_VERSION = "6.54.12"
"""The SAELens release whose format this is. Without a version of at least 6 its loader would discard the metadata."""


def save_sae(sae: SAE, directory: str | Path) -> None:
    """Write an SAE whole or not at all: both files are complete before either takes its place.

    Raises `OSError` if the disk is full or the directory cannot be written.
    """
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.", suffix=".part"))
    try:
        write_tensors(stage / WEIGHTS_FILE, sae.state_dict())
        write_json(stage / CONFIG_FILE, _to_cfg(sae))
        directory.mkdir(exist_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            os.replace(stage / name, directory / name)
    finally:
        shutil.rmtree(stage)


def load_saes(directories: Iterable[str | Path], device: str | torch.device = "cpu") -> list[SAE]:
    """Read SAEs from their directories, or from directories that hold those of several. Raises as `load_sae`."""
    return [load_sae(path, device) for directory in map(Path, directories) for path in _within(directory)]


def _within(directory: Path) -> list[Path]:
    if (directory / CONFIG_FILE).is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob(f"*/{CONFIG_FILE}")) or [directory]


def load_sae(directory: str | Path, device: str | torch.device = "cpu") -> SAE:
    """Read an SAE that this workbench or SAELens saved, as 32-bit floats that need no gradient.

    Raises `DamagedFile`, naming the file, if one is missing or truncated, if its architecture is unknown, or if the
    weights do not have the shapes that cfg.json promises.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DamagedFile(
            f"{directory} is not the directory of an SAE (it should hold {CONFIG_FILE} and {WEIGHTS_FILE})"
        )
    path = directory / CONFIG_FILE
    cfg = read_json(path)
    architecture, config = _from_cfg(path, cfg)
    sae = ARCHITECTURES[architecture](config)
    _fill(sae, read_tensors(directory / WEIGHTS_FILE, device), directory / WEIGHTS_FILE)
    if cfg.get("rescale_acts_by_decoder_norm"):
        sae.fold(1.0)
    return sae.to(device).requires_grad_(False)


def _to_cfg(sae: SAE) -> dict[str, Any]:
    cfg = sae.cfg
    fields: dict[str, Any] = {"architecture": sae.architecture, "d_in": cfg.d_in, "d_sae": cfg.d_sae}
    if sae.architecture == "matching_pursuit":
        fields |= {"max_iterations": cfg.k, "residual_threshold": cfg.residual_threshold}
    elif cfg.k:
        fields |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    if cfg.d_out:
        fields |= {"d_out": cfg.d_out}
    if cfg.widths:
        fields |= {"widths": list(cfg.widths)}
    return fields | {
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": cfg.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if sae.site.endswith("hook_z") else "none",
        "metadata": {"sae_lens_version": FORMAT_VERSION, "sae_lens_training_version": None} | dict(cfg.metadata),
    }


def _from_cfg(path: Path, cfg: Any) -> tuple[str, SAEConfig]:
    if not isinstance(cfg, dict) or "architecture" not in cfg:
        raise DamagedFile(f"{path} is not the configuration of an SAE: it names no architecture")
    architecture = cfg["architecture"]
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise DamagedFile(f"{path} has the architecture {json.dumps(architecture)}; known here are {known}")
    if cfg.get("normalize_activations", "none") not in ("none", "expected_average_only_in"):
        raise DamagedFile(f"{path} normalises activations by {cfg['normalize_activations']!r}, which is not supported")
    by_k = architecture.startswith("topk")
    counts = (*(["k"] if by_k else []), *(["d_out"] if architecture.endswith("transcoder") else []))
    for name in ("d_in", "d_sae", *counts):
        if not isinstance(cfg.get(name), int) or cfg[name] < 1:
            raise DamagedFile(f"{path} must give {name} as a whole number above 0, not {cfg.get(name)!r}")
    if by_k and cfg["k"] > cfg["d_sae"]:
        raise DamagedFile(f"{path}: k must be at most d_sae ({cfg['d_sae']}), not {cfg['k']}")
    widths = cfg.get("widths") or ()
    if architecture.endswith("crosscoder") and not _are_widths(widths, cfg["d_in"]):
        raise DamagedFile(f"{path} must give the widths of two sites or more, which add up to d_in ({cfg['d_in']})")
    pursues = architecture == "matching_pursuit"
    return architecture, SAEConfig(
        cfg["d_in"],
        cfg["d_sae"],
        (cfg.get("max_iterations") or cfg["d_in"]) if pursues else cfg.get("k"),
        cfg.get("apply_b_dec_to_input", True),
        cfg.get("metadata") or {},
        by_norm=bool(cfg.get("rescale_acts_by_decoder_norm")),
        d_out=cfg.get("d_out"),
        widths=tuple(widths),
        residual_threshold=cfg.get("residual_threshold", 1e-2) if pursues else 0.0,
    )


def _are_widths(value: Any, total: int) -> bool:
    """Whether this is a list of two widths or more that add up."""
    whole = isinstance(value, list) and all(isinstance(width, int) and width > 0 for width in value)
    return whole and len(value) > 1 and sum(value) == total


def _fill(sae: SAE, tensors: dict[str, Tensor], path: Path) -> None:
    own = sae.state_dict()
    if own.keys() != tensors.keys():
        odd = ", ".join(sorted(own.keys() ^ tensors.keys()))
        raise DamagedFile(f"{path} should hold the tensors {', '.join(own)}; missing or surplus: {odd}")
    for name, parameter in own.items():
        found, wanted = list(tensors[name].shape), list(parameter.shape)
        if found != wanted:
            raise DamagedFile(f"{path}: {name} has the shape {found} where {CONFIG_FILE} promises {wanted}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
