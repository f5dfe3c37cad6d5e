"""Reading a model from disk or the Hugging Face hub into a TransformerBridge.

Only safetensors are read, so no pickle is ever opened, and no code that comes with a model is ever run. The bridge
rewrites the module tree that it wraps, so it always gets a model of its own; tokenizers are kept away from it, because
it would reconfigure them.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from workbench.errors import DamagedFile, ModelError, SettingError
from workbench.files import read_json

BUNDLED = "tinytown"


def locate(source: str | Path) -> str:
    """A checked local directory, or else the id of a model that the Hugging Face hub has. Raises `ModelError`."""
    if str(source) == BUNDLED:
        from workbench.tinytown import MODEL_DIR

        source = MODEL_DIR
    path = Path(source).expanduser()
    if path.is_dir():
        _check_directory(path)
        return str(path)
    if path.exists():
        raise ModelError(f"{source} is a file; a model is a Hugging Face directory (config.json, model.safetensors, …)")
    return _on_hub(str(source))


def _on_hub(source: str) -> str:
    """`source` if the hub has it; if the hub cannot be reached, the directory of a copy downloaded before."""
    try:
        HfApi().model_info(source, timeout=10)
        return source
    except GatedRepoError:
        raise ModelError(
            f"{source} is gated: accept its terms on huggingface.co, then log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(_not_found(source)) from None
    except Exception:  # a network fails in many ways
        copy_of_config = try_to_load_from_cache(source, "config.json")
        if not isinstance(copy_of_config, str):
            raise ModelError(_not_found(source)) from None
        directory = Path(copy_of_config).parent
        _check_directory(directory)
        return str(directory)


def _not_found(source: str) -> str:
    return (
        f"{source} not found: neither a directory here nor reachable on the Hugging Face hub; "
        f"give '{BUNDLED}', a directory with config.json and model.safetensors, or an id like 'EleutherAI/pythia-70m'"
    )


def _check_directory(path: Path) -> None:
    """Say early and clearly what a directory lacks; the library's own reports run over many lines."""
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json, so it is not a Hugging Face model directory")
    if not isinstance(config := read_json(path / "config.json"), dict) or "model_type" not in config:
        raise DamagedFile(f"{path / 'config.json'} names no model_type, so it is not a Hugging Face model config")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickles = [file.name for file in (*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth"))]
        hint = f"; {pickles[0]} is a pickle, which is never loaded: save it again with safetensors" if pickles else ""
        raise ModelError(f"{path} has no weights (model.safetensors){hint}")
    for file in weights:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise DamagedFile(f"{file} is truncated or not a safetensors file ({error})") from None


def check_device(device: str | torch.device) -> None:
    """Raises `SettingError` if nothing can be computed there."""
    try:
        torch.zeros(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError):
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise SettingError(f"there is no device {str(device)!r} here; there is {here}") from None


def read_pretrained(place: str, device: str | torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The Hugging Face model at a place given by `locate`, with attention computed where it can be seen."""
    try:
        with no_progress_bar() if Path(place).is_dir() else nullcontext():
            model, report = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise DamagedFile(f"the weights of {place} are truncated or not safetensors ({error})") from None
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{place} cannot be read as a language model: {_in_short(error)}") from None
    if lacking := sorted(report["missing_keys"]):
        raise DamagedFile(f"the weights of {place} lack {len(lacking)} tensors, {lacking[0]} among them")
    return model.to(device)


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """The library shows one for reading and writing files that are here."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _in_short(error: Exception) -> str:
    return shorten(str(error), 300, placeholder=" …")


def read_tokenizer(place: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model; None if there is none. Raises `DamagedFile` if there is one that is broken."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        if (file := Path(place) / "tokenizer.json").is_file():
            read_json(file)
        return None
    return tokenizer if tokenizer.vocab_size else None  # without files, the library makes one that knows no words


def bridge_around(model: PreTrainedModel, name: str) -> TransformerBridge:
    """A TransformerBridge that takes over `model`; it and whatever the bridge adds to it are frozen, dropout is off."""
    try:
        bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config, model_name=name)
    except (ValueError, NotImplementedError, AttributeError, KeyError) as error:
        kind = type(model).__name__
        raise ModelError(f"{name} is a {kind}, which TransformerBridge cannot wrap: {_in_short(error)}") from None
    bridge.original_model.eval().requires_grad_(False)
    return bridge


def private_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the caller's model that a bridge may take over, with attention computed where it can be seen."""
    ours = copy.deepcopy(model)
    ours.set_attn_implementation("eager")
    return ours
