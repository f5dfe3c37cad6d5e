"""The model and the text that an SAE was trained on, by the names in its file."""

from pathlib import Path

from saes.sae import SAE
from workbench.errors import SettingError


def origin(sae: SAE, path: Path, model: str | None, corpus: str | None) -> tuple[str, str]:
    """The names of model and corpus: those given, or else those in the file. `SettingError` if one, or its site, is
    missing.
    """
    trained = sae.cfg.metadata
    name, source = model or trained.get("model_name"), corpus or trained.get("dataset_path")
    if not (name and source and sae.site):
        missing = "its site" if not sae.site else "model" if not name else "corpus"
        raise SettingError(f"{path} does not say {missing}; give it as an option")
    return name, source
