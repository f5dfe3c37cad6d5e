"""The tuned lens: an affine translator for each layer, learnt so that the model's last norm and unembedding read it.

Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens" (arXiv:2303.08112): layer ℓ's
residual stream h is read as `unembed(h + A_ℓ h + b_ℓ)`, with A and b trained to bring the distribution close to the
model's final one (eq. 8). With A and b zero, it is the logit lens.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import DamagedFile, ModelError, SettingError
from workbench.files import read_json, read_tensors, write_json, write_tensors
from workbench.model import HookedModel

EMBEDDING = "blocks.0.hook_resid_pre"
LAYERS = "blocks.*.hook_resid_post"
FACTS_FILE, WEIGHTS_FILE = "lens.json", "lens.safetensors"


def rows_of(n_layers: int) -> list[str]:
    """The sites that a lens reads: the embedding and the residual stream after each layer."""
    return [EMBEDDING, *(LAYERS.replace("*", str(layer)) for layer in range(n_layers))]


@dataclass(frozen=True, eq=False)
class TunedLens:
    """Translators of the residual stream, in float32: of the embedding, and of each layer but the last."""

    A: Float[Tensor, "translator d_model d_model"]
    b: Float[Tensor, "translator d_model"]
    model_fingerprint: str
    """Of the model that the lens was trained on, which is the only one it reads."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How it was trained, and what it reached; plain values."""

    @classmethod
    def identity(cls, model: HookedModel) -> "TunedLens":
        """Translators that change nothing."""
        n, d = model.info.n_layers, model.info.d_model
        device = model.device
        return cls(torch.zeros(n, d, d, device=device), torch.zeros(n, d, device=device), model.fingerprint)

    @property
    def sites(self) -> list[str]:
        """The site that each translator reads."""
        return rows_of(len(self.A))[:-1]

    def translate(self, resid: Float[Tensor, "*at d_model"], site: str) -> Float[Tensor, "*at d_model"]:
        """The residual stream at a site as the last layer would have left it. The last layer's own stays as it is."""
        if site not in self.sites:
            return resid
        number = self.sites.index(site)
        A, b = self.A[number].to(resid.device), self.b[number].to(resid.device)
        return (resid.float() + resid.float() @ A.T + b).to(resid.dtype)

    def check(self, model: HookedModel) -> None:
        """Raises `ModelError` if the lens was not trained on this model."""
        if model.fingerprint != self.model_fingerprint:
            name = self.facts.get("model", "another model")
            raise ModelError(f"this tuned lens was trained on {name}, and {model.info.name} has other weights")

    def save(self, directory: str | Path) -> None:
        """Write lens.safetensors, then lens.json; a directory that has the latter holds a whole lens."""
        write_tensors(Path(directory) / WEIGHTS_FILE, {"A": self.A, "b": self.b})
        write_json(Path(directory) / FACTS_FILE, {"model_fingerprint": self.model_fingerprint, **self.facts})


def load_tuned_lens(directory: str | Path, model: HookedModel | None = None) -> TunedLens:
    """A lens from the directory that it was saved in; with `model`, checked to be of it, and on its device.

    Raises `SettingError` if there is none there, `DamagedFile` if it is broken, `ModelError` if it is another model's.
    """
    directory = Path(directory)
    if not (directory / FACTS_FILE).is_file():
        raise SettingError(f"{directory} holds no tuned lens ({FACTS_FILE}); `workbench lens train` makes one")
    facts, tensors = read_json(directory / FACTS_FILE), read_tensors(directory / WEIGHTS_FILE)
    if not isinstance(facts, dict) or not isinstance(fingerprint := facts.pop("model_fingerprint", None), str):
        raise DamagedFile(f"{directory / FACTS_FILE} does not say which model the lens is of")
    A, b = tensors.get("A"), tensors.get("b")
    if A is None or b is None or A.ndim != 3 or not A.shape[1] == A.shape[2] or b.shape != A.shape[:2]:
        raise DamagedFile(f"{directory / WEIGHTS_FILE} does not hold the translators of a lens, A and b")
    device = "cpu" if model is None else model.device
    lens = TunedLens(A.float().to(device), b.float().to(device), fingerprint, facts)
    if model is not None:
        lens.check(model)
    return lens
