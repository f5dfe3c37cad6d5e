"""Sparse probing: can a user's own label be read from very few latents?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.route import rows_at
from saes.sae import SAE
from workbench.activations import special_ids
from workbench.errors import SettingError
from workbench.model import HookedModel

KS = (1, 2, 5)
TEST = 0.25
"""Share of each label's examples that the probes are tested on."""


@dataclass(frozen=True)
class SparseProbing:
    """Balanced accuracy (mean of the recalls on both sides; chance is 0.5) of one-against-the-rest probes.

    Averaged over labels. A probe of k latents, or k dimensions of the activation, takes the k of the largest difference
    of class means on the training examples, and is a class-balanced logistic regression with ridge 1 on standardised
    inputs. Sources: Gurnee et al. 2023, "Finding neurons in a haystack" (selection by mean difference); SAEBench,
    `sparse_probing`, which reports plain accuracy on balanced classes.
    """

    labels: tuple[str, ...]
    n_examples: int
    sae: dict[int, float]
    """By k."""
    activation: dict[int, float]
    """Of k dimensions of the activation itself, by k."""
    activation_all: float
    """Of the whole activation."""

    def rows(self) -> list[tuple[str, str, str]]:
        return [
            (
                f"probe of {k} latent{'s' if k > 1 else ''}",
                f"{self.sae[k]:.2%}",
                f"of {k} dimensions {self.activation[k]:.2%}, of all {self.activation_all:.2%}",
            )
            for k in self.sae
        ]


def sparse_probing(
    latents: Float[Tensor, "example d_sae"],
    x: Float[Tensor, "example d_in"],
    labels: Sequence[str],
    *,
    ks: Sequence[int] = KS,
    seed: int = 0,
) -> SparseProbing:
    """Probe for each label against all others. `seed` draws the quarter of each label's examples to be tested on.

    Raises `SettingError` unless there are at least two labels with four examples each.
    """
    names = sorted(set(labels))
    counts = [labels.count(name) for name in names]
    if len(names) < 2 or min(counts) < 4:
        raise SettingError("probing needs two labels or more, with four examples or more of each")
    number = torch.tensor([names.index(label) for label in labels])
    test = _held_out(number, seed)
    targets = [number == i for i in (range(len(names)) if len(names) > 2 else [1])]

    def accuracy(z: Tensor, k: int | None) -> float:
        return sum(_probe(z.double(), y, test, k) for y in targets) / len(targets)

    return SparseProbing(
        labels=tuple(names),
        n_examples=len(labels),
        sae={k: accuracy(latents, k) for k in ks},
        activation={k: accuracy(x, k) for k in ks},
        activation_all=accuracy(x, None),
    )


def _held_out(number: Tensor, seed: int) -> Bool[Tensor, " example"]:
    generator = torch.Generator().manual_seed(seed)
    test = torch.zeros(len(number), dtype=torch.bool)
    for label in number.unique():
        mine = (number == label).nonzero()[:, 0]
        test[mine[torch.randperm(len(mine), generator=generator)[: max(1, int(TEST * len(mine)))]]] = True
    return test


def _probe(z: Float[Tensor, "example d"], y: Bool[Tensor, " example"], test: Tensor, k: int | None) -> float:
    """Balanced accuracy on the test examples."""
    if k is not None:
        difference = (z[~test & y].mean(0) - z[~test & ~y].mean(0)).abs()
        z = z[:, difference.topk(min(k, z.shape[1])).indices]
    mean, spread = z[~test].mean(0), z[~test].std(0).clamp_min(1e-9)
    z = (z - mean) / spread
    says = logistic(z[~test], y[~test]).predict(z[test]) > 0
    truth = y[test]
    return ((says & truth).sum() / truth.sum() + (~says & ~truth).sum() / (~truth).sum()).item() / 2


@dataclass(frozen=True)
class Logistic:
    weight: Float[Tensor, " d"]
    bias: float

    def predict(self, z: Float[Tensor, "example d"]) -> Float[Tensor, " example"]:
        """Log odds."""
        return z @ self.weight + self.bias


def logistic(z: Float[Tensor, "example d"], y: Bool[Tensor, " example"], ridge: float = 1.0) -> Logistic:
    """Minimise ridge |w|^2 / 2 + sum_i c_i log loss_i, with c_i such that both classes weigh n/2. L-BFGS, 64-bit."""
    z, target = torch.cat([z, z.new_ones(len(z), 1)], 1).double(), y.double()
    cost = torch.where(y, len(y) / (2 * target.sum()), len(y) / (2 * (1 - target).sum()))
    w = torch.zeros(z.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(z @ w, target, cost, reduction="sum")
        loss = loss + ridge / 2 * w[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Logistic(w.detach()[:-1], w[-1].item())


@torch.no_grad()
def probe_texts(
    sae: SAE, model: HookedModel, texts: Sequence[str], labels: list[str], *, seed: int = 0
) -> SparseProbing:
    """`sparse_probing` of whole texts: latents and activations are averaged over a text's tokens but special ones.

    Texts are cut at the model's context. Raises `PromptError` for a text without tokens.
    """
    skip = torch.tensor(special_ids(model.tokenizer), dtype=torch.int64)
    reads, pooled = sae.route.reads, []
    for text in texts:
        tokens = model.to_tokens(text)[:, : model.info.n_ctx]
        run = model.run(tokens, capture=reads, stop_after=max(reads, key=model.sites.index))
        text = ~torch.isin(tokens.cpu(), skip).to(model.device)
        x = rows_at(sae, reads, run.activations, text).float()
        pooled.append((sae.encode(x).mean(0).cpu(), x.mean(0).cpu()))
    latents, x = (torch.stack(column) for column in zip(*pooled, strict=True))
    with torch.enable_grad():
        return sparse_probing(latents, x, labels, seed=seed)
