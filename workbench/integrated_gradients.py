"""Input attribution: how much each token of a prompt moves a metric, by integrated gradients on the embeddings.

Sundararajan, Taly & Yan 2017 (arXiv:1703.01365, eq. 1): the gradient of the metric is averaged along the straight line
from a baseline x' to the input x, and multiplied by x - x'. What the tokens get adds up to m(x) - m(x') (completeness),
but for the error of the numerical integral, which is reported.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.attribution import question
from workbench.edits import replace
from workbench.errors import SettingError
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

SITE = "hook_embed"
BASELINES = ("zeros", "mean", "corrupted")
"""No embedding at all; the mean over the vocabulary; the embeddings of the corrupted prompts."""
CLUSTERING = 2
"""The path is walked in t, where the point is x' + t² (x - x'): a norm turns fastest where its input is small."""


@dataclass(frozen=True, eq=False)
class InputAttribution:
    """What the token at each position adds to a metric, in the metric's units."""

    question: str
    strings: list[list[str]]
    """The tokens of each prompt."""
    integrated: Float[Tensor, "example pos"]
    gradient: Float[Tensor, "example pos"]
    """For comparison, the gradient at the input times what is integrated over; with zeros, gradient × input."""
    value: Float[Tensor, " example"]
    """The metric of each prompt."""
    baseline_value: Float[Tensor, " example"]
    baseline: str
    steps: int

    @property
    def missing(self) -> Float[Tensor, " example"]:
        """What the tokens lack of the whole difference: the error of the integral."""
        return self.value - self.baseline_value - self.integrated.sum(1)

    def __str__(self) -> str:
        """Each token of the first prompt, and what all come to."""
        lines = [f"{self.question}, by token (integrated gradients from {self.baseline}, {self.steps} steps)"]
        lines += [
            f"  {total:+8.3f}  {string!r}" for total, string in zip(self.integrated[0], self.strings[0], strict=True)
        ]
        whole, missing = self.value[0] - self.baseline_value[0], self.missing[0]
        lines.append(
            f"  {self.integrated[0].sum():+8.3f}  in all; the prompt differs from the baseline by {whole:+.3f}, "
            f"from {self.baseline_value[0]:.3f} to {self.value[0]:.3f}"
        )
        if abs(missing) > 0.05 * abs(whole):
            lines.append(
                f"  {missing:+8.3f}  is missing: take more steps; where experts are routed to, none are enough"
            )
        if len(self.value) > 1:
            lines.append(f"  and {len(self.value) - 1} more prompts")
        return "\n".join(lines)


def integrated_gradients(
    model: HookedModel,
    pairs: PromptPairs,
    *,
    metric: Metric = LOGIT_DIFFERENCE,
    baseline: str = "mean",
    steps: int = 128,
    batch_size: int = 64,
) -> InputAttribution:
    """Attribute a metric of the clean prompts to their tokens.

    `baseline` is one of `BASELINES`; positions enter as they are, the baseline has them too. The integral is taken by
    Gauss-Legendre quadrature at `steps` points, `batch_size` prompts and points at a time. See to it that little is
    `missing`: an RMSNorm turns in no distance near zeros, so that these take many steps; and where the routing of a
    mixture of experts jumps, no integral of gradients sees it.
    Raises `SettingError` for another baseline, no steps, or no prompts.
    """
    if baseline not in BASELINES:
        raise SettingError(f"no baseline {baseline!r}; the baselines are {', '.join(BASELINES)}")
    if steps < 1 or not len(pairs):
        raise SettingError(f"there are {len(pairs)} prompts and {steps} steps; there must be one of each at least")
    start, end = _baseline(model, pairs, baseline), _embeddings(model, pairs.clean)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    t, dt = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    at, weight = t**CLUSTERING, CLUSTERING * t ** (CLUSTERING - 1) * dt
    groups = [slice(i, i + batch_size) for i in range(0, len(pairs), batch_size)]
    parts = []
    for rows in groups:
        path = _Path(model, pairs[rows], metric, start[rows], end[rows] - start[rows])
        integrated = sum(
            torch.einsum("s,sepd->epd", w, path.gradients(a)[1])
            for a, w in zip(
                *(x.to(end).split(max(1, batch_size // len(path.pairs))) for x in (at, weight)), strict=True
            )
        )
        values, gradients = path.gradients(at.new_tensor([0.0, 1.0]).to(end))
        parts.append(
            [*((path.difference * g).sum(-1).cpu() for g in (integrated, gradients[1])), *values.flip(0).cpu()]
        )
    return InputAttribution(
        question(model, [pairs], metric),
        [model.token_strings(row) for row in pairs.clean],
        *(torch.cat(column) for column in zip(*parts, strict=True)),
        baseline=baseline,
        steps=steps,
    )


@dataclass(frozen=True, eq=False)
class _Path:
    """The straight lines from baselines to embeddings."""

    model: HookedModel
    pairs: PromptPairs
    metric: Metric
    start: Float[Tensor, "example pos d_model"]
    difference: Float[Tensor, "example pos d_model"]

    def gradients(
        self, at: Float[Tensor, " point"]
    ) -> tuple[Float[Tensor, "point example"], Float[Tensor, "point example pos d_model"]]:
        """The metric, and its gradient, at some points between 0 (the baselines) and 1 (the embeddings)."""
        points = self.start + at[:, None, None, None] * self.difference
        tokens = self.pairs.clean.repeat(len(at), 1)
        run = self.model.run(tokens, edits=[replace(SITE, points.flatten(0, 1))], capture=[SITE], grad=True)
        values = self.metric(run.logits[:, -1].float().unflatten(0, points.shape[:2]), self.pairs, self._clean)
        (gradient,) = torch.autograd.grad(values.sum(), run[SITE])
        return values.detach(), gradient.float().view_as(points)

    @cached_property
    def _clean(self) -> Float[Tensor, "example d_vocab"]:
        return self.model.run(self.pairs.clean).logits[:, -1].float()


def _embeddings(model: HookedModel, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "example pos d_model"]:
    return model.run(tokens, capture=[SITE], stop_after=SITE)[SITE].float()


def _baseline(model: HookedModel, pairs: PromptPairs, baseline: str) -> Float[Tensor, "example pos d_model"]:
    if baseline == "corrupted":
        return _embeddings(model, pairs.corrupted)
    shape = (*pairs.clean.shape, model.info.d_model)
    if baseline == "zeros":
        return torch.zeros(shape, device=model.device)
    vocabulary = torch.arange(model.info.d_vocab).split(model.info.n_ctx)
    total = sum(_embeddings(model, tokens[None])[0].sum(0) for tokens in vocabulary)
    return (total / model.info.d_vocab).expand(shape)
