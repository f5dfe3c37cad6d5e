"""An SAE on the reader's own text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from saes.sae import SAE
    from workbench.model import HookedModel


@dataclass(frozen=True)
class Firing:
    """What every latent does on one text. Zero at special tokens, which an SAE does not read."""

    tokens: Int[Tensor, "pos"]
    strings: list[str]
    activations: Float[Tensor, "pos d_sae"]

    def strongest(self, k: int, at: int | None = None) -> list[tuple[int, float]]:
        """(latent, activation) of the latents that fire most, best first: at one position, or anywhere in the text."""
        peaks = self.activations.max(dim=0).values if at is None else self.activations[at]
        order = peaks.argsort(descending=True, stable=True)[:k].tolist()
        return [(latent, peaks[latent].item()) for latent in order if peaks[latent] > 0]


def fire(model: "HookedModel", sae: "SAE", text: str) -> Firing:
    """Run `text` as far as the SAE reads and encode it. Raises `PromptError` for an empty text or one too long."""
    from saes.route import rows_at
    from workbench.activations import special_ids

    tokens, reads = model.to_tokens(text), sae.route.reads
    run = model.run(tokens, capture=reads, stop_after=max(reads, key=model.sites.index))
    rows = rows_at(sae, reads, run.activations, tokens >= 0)
    activations = sae.encode(rows).detach().float().cpu()
    for special in special_ids(model.tokenizer):
        activations[tokens[0].cpu() == special] = 0.0
    return Firing(tokens[0].cpu(), model.token_strings(tokens[0]), activations)
