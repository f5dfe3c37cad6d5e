"""An SAE on its way from one tool to another: configuration and weights in SAELens' names, architecture unknown to us
or not."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saes.storage import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE
from workbench.errors import DamagedFile, SettingError
from workbench.files import read_json, read_tensors, write_json, write_tensors


@dataclass(frozen=True)
class PortableSAE:
    """What SAELens' cfg.json and sae_weights.safetensors hold."""

    cfg: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.cfg.get("metadata") or {}

    def placed(self, site: str | None = None, model: str | None = None) -> "PortableSAE":
        """The same, said to belong at `site` of `model` where given. Raises `SettingError` if no site is known."""
        new = {name: value for name, value in (("hook_name", site), ("model_name", model)) if value}
        metadata = dict(self.metadata) | new
        site = metadata.get("hook_name")
        if not site:
            raise SettingError("the SAE does not say at which site of the model it belongs; give --site")
        reshape = {"reshape_activations": "hook_z"} if site.endswith("hook_z") else {}
        return replace(self, cfg=dict(self.cfg) | reshape | {"metadata": metadata})


def portable(architecture: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], **cfg: Any) -> PortableSAE:
    """`tensors` in SAELens' names and shapes, as 32-bit floats, with a cfg.json for them; `cfg` adds to it."""
    d_sae, d_in = tensors["W_dec"].shape
    known = {name: value for name, value in metadata.items() if value is not None}
    whole = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": FORMAT_VERSION, "sae_lens_training_version": None} | known,
    }
    return PortableSAE(whole | cfg, {name: tensor.to(torch.float32) for name, tensor in tensors.items()})


def read_saelens(directory: Path) -> PortableSAE:
    """A directory in SAELens' format. Raises `DamagedFile` if a file is missing or damaged."""
    cfg = read_json(directory / CONFIG_FILE)
    if not isinstance(cfg, dict) or "architecture" not in cfg:
        raise DamagedFile(f"{directory / CONFIG_FILE} is not the configuration of an SAE: it names no architecture")
    if "sae_lens_version" not in (cfg.get("metadata") or {}):
        raise DamagedFile(f"{directory} was saved by SAELens before 6; load it with SAELens 6 and save it again")
    return PortableSAE(cfg, read_tensors(directory / WEIGHTS_FILE))


def write_saelens(sae: PortableSAE, directory: Path) -> None:
    """Write a directory that SAELens opens; both files are complete before either takes its place. Raises `OSError`."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.", suffix=".part"))
    try:
        write_tensors(stage / WEIGHTS_FILE, sae.tensors)
        write_json(stage / CONFIG_FILE, dict(sae.cfg))
        directory.mkdir(exist_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            os.replace(stage / name, directory / name)
    finally:
        shutil.rmtree(stage)


def take(tensors: Mapping[str, Tensor], path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors named in `shapes`. Raises `DamagedFile` if one is missing or has another shape."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise DamagedFile(f"{path} should hold the tensors {', '.join(shapes)}; {name} is missing")
        if tuple(tensors[name].shape) != shape:
            raise DamagedFile(f"{path}: {name} has the shape {list(tensors[name].shape)} where {list(shape)} is due")
    return {name: tensors[name] for name in shapes}
