"""Read an SAE that dictionary_learning saved: `trainer_i/` with config.json and its weights as ae.safetensors.

dictionary_learning writes ae.pt, a pickle, which is never loaded here: its tensors are to be saved, under the same
names, as ae.safetensors beside it.

Every class is translated by its `encode` (dictionary_learning 0.1, `dictionary.py` and `trainers/`):

    AutoEncoder             relu(W (x - bias) + b)                                      standard
    AutoEncoderNew          relu(W x + b)                                               standard, b_dec not subtracted
    AutoEncoderTopK         top k of relu(W (x - b_dec) + b)                            topk
    BatchTopKSAE            relu(pre) where above the threshold, x - b_dec              jumprelu
    MatryoshkaBatchTopKSAE  the same                                                    jumprelu
    JumpReluAutoEncoder     |W_dec| relu(pre) where pre > threshold, x as it is         jumprelu, norms folded
    GatedAutoEncoder        |W_dec| relu(e^r pre + mag_bias) where pre + gate_bias > 0  gated, norms folded
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from saes.formats.portable import PortableSAE, portable, take
from workbench.errors import DamagedFile
from workbench.files import read_json, read_tensors

PICKLE_FILE = "ae.pt"
SAFE_FILE = "ae.safetensors"
_SUBMODULE = re.compile(r"(resid_pre|resid_mid|resid_post|mlp_out|attn_out|attention_out)(?:_layer_?(\d+))?")


def is_dictionary_learning(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (PICKLE_FILE, SAFE_FILE))


def read_dictionary_learning(directory: Path) -> PortableSAE:
    """The SAE of one trainer.

    Raises `DamagedFile` if a file is missing or damaged, or if the class is none of those above.
    """
    path = directory / "config.json"
    config = read_json(path)
    trainer = config.get("trainer") if isinstance(config, dict) else None
    if not isinstance(trainer, dict) or "dict_class" not in trainer:
        raise DamagedFile(f"{path} is not a dictionary_learning configuration: it names no trainer.dict_class")
    kind = trainer["dict_class"]
    if kind not in READERS:
        raise DamagedFile(f"{path} has the class {kind!r}; those that can be imported are {', '.join(READERS)}")
    weights = directory / SAFE_FILE
    if not weights.is_file():
        raise DamagedFile(
            f"{directory / PICKLE_FILE} is a pickle, which is never loaded: if you trust it, save its tensors "
            f"as {SAFE_FILE} with safetensors.torch.save_file"
        )
    tensors = read_tensors(weights)
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return READERS[kind](tensors, weights, _metadata(trainer, config.get("buffer") or {}))


def _linear(tensors: dict[str, Tensor], path: Path, *biases: str) -> dict[str, Tensor]:
    """Weights of the classes built on `nn.Linear`, whose matrices are stored as [out, in]."""
    d_sae, d_in = _shape(tensors, path, "encoder.weight")
    shapes = {"encoder.weight": (d_sae, d_in), "decoder.weight": (d_in, d_sae)}
    wide = {"encoder.bias", "r_mag", "gate_bias", "mag_bias"}
    return take(tensors, path, shapes | {name: (d_sae if name in wide else d_in,) for name in biases})


def _shape(tensors: dict[str, Tensor], path: Path, name: str) -> tuple[int, int]:
    if name not in tensors or tensors[name].dim() != 2:
        raise DamagedFile(f"{path} should hold the matrix {name}")
    return tuple(tensors[name].shape)


def _standard(bias: str, apply_b_dec_to_input: bool) -> Callable[..., PortableSAE]:
    def read(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> PortableSAE:
        found = _linear(tensors, path, "encoder.bias", bias)
        weights = _renamed(found, bias)
        return portable("standard", weights, metadata, apply_b_dec_to_input=apply_b_dec_to_input)

    return read


def _top_k(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> PortableSAE:
    found = _linear(tensors, path, "encoder.bias", "b_dec") | take(tensors, path, {"k": ()})
    return portable("topk", _renamed(found, "b_dec"), metadata, k=int(found["k"]), rescale_acts_by_decoder_norm=False)


def _batch_top_k(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> PortableSAE:
    found = _linear(tensors, path, "encoder.bias", "b_dec") | take(tensors, path, {"threshold": ()})
    weights = _renamed(found, "b_dec")
    return portable("jumprelu", weights | {"threshold": found["threshold"].expand(len(weights["b_enc"]))}, metadata)


def _matryoshka(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> PortableSAE:
    found = _plain(tensors, path, ())
    threshold = found.pop("threshold").expand(len(found["b_enc"]))
    return portable("jumprelu", found | {"threshold": threshold}, metadata)


def _jump_relu(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> PortableSAE:
    found = _plain(tensors, path, (_shape(tensors, path, "W_enc")[1],))
    norms = found["W_dec"].norm(dim=1)
    folded = {name: found[name] * norms for name in ("W_enc", "b_enc", "threshold")}
    unit = {"W_dec": found["W_dec"] / norms[:, None], "b_dec": found["b_dec"]}
    return portable("jumprelu", folded | unit, metadata, apply_b_dec_to_input=False)


def _gated(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> PortableSAE:
    found = _linear(tensors, path, "decoder_bias", "r_mag", "gate_bias", "mag_bias")
    decoder = found["decoder.weight"].T
    norms = decoder.norm(dim=1)
    weights = {
        "W_enc": found["encoder.weight"].T,
        "W_dec": decoder / norms[:, None],
        "b_dec": found["decoder_bias"],
        "b_gate": found["gate_bias"],
        "b_mag": found["mag_bias"] * norms,
        "r_mag": found["r_mag"] + norms.log(),
    }
    return portable("gated", weights, metadata)


def _plain(tensors: dict[str, Tensor], path: Path, threshold: tuple[int, ...]) -> dict[str, Tensor]:
    """Weights of the classes that hold SAELens' matrices."""
    d_in, d_sae = _shape(tensors, path, "W_enc")
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    return take(tensors, path, shapes | {"threshold": threshold})


def _renamed(found: dict[str, Tensor], bias: str) -> dict[str, Tensor]:
    return {
        "W_enc": found["encoder.weight"].T,
        "b_enc": found["encoder.bias"],
        "W_dec": found["decoder.weight"].T,
        "b_dec": found[bias],
    }


READERS: dict[str, Callable[..., PortableSAE]] = {
    "AutoEncoder": _standard("bias", apply_b_dec_to_input=True),
    "AutoEncoderNew": _standard("decoder.bias", apply_b_dec_to_input=False),
    "AutoEncoderTopK": _top_k,
    "BatchTopKSAE": _batch_top_k,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "JumpReluAutoEncoder": _jump_relu,
    "GatedAutoEncoder": _gated,
}


def _metadata(trainer: dict[str, Any], buffer: dict[str, Any]) -> dict[str, Any]:
    return {
        "hook_name": _site(trainer.get("submodule_name"), trainer.get("layer")),
        "model_name": trainer.get("lm_name"),
        "context_size": buffer.get("ctx_len"),
        "imported_from": "dictionary_learning",
    }


def _site(submodule: str | None, layer: int | None) -> str | None:
    match = _SUBMODULE.fullmatch(submodule or "")
    if not match or (layer := match[2] or layer) is None:
        return None
    return f"blocks.{layer}.hook_{match[1].replace('attention', 'attn')}"
