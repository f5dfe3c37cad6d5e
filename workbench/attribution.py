"""Direct logit attribution: what each part of a model adds to a logit, or to the difference of two.

The stream that the logits are read from is a sum: embedding, heads, neurons, biases. With the final norm's scale held
where it was (`workbench.norms`), the logits before any soft cap are linear in it, so that each part's share is exact
and the shares add up (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al. 2022,
arXiv:2211.00593, §3.1). Weights stay raw: nothing is folded. `workbench.logit_parts` says what the parts are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import ModelError, SettingError
from workbench.logit_parts import PARTS, Autoencoder, Parts, Reading, check_sae, latents, side_by_side, sites_of
from workbench.metrics import LOGIT, LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs

LEVELS = (*PARTS, "latent")
"""What logits can be split by."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each part of a model adds to the logits in question, at the last position of some prompts.

    Over all `parts` together, the values add up to `before_cap`.
    """

    by: str
    """What the logits are split by: one of `LEVELS`."""
    question: str
    """Which logits, in words."""
    strings: list[str] | None
    """The tokens of the prompt, if there is only one."""
    parts: Parts
    """By kind, in logits: "embedding" [example], "head" [example layer head], "neuron" [example layer neuron], …"""
    logits: Float[Tensor, " example"]
    """The model's own logit, or difference of logits."""
    before_cap: Float[Tensor, " example"]
    """The same before the soft cap of a model that has one (Gemma 2); the cap is not linear, so no part has a share in
    what it takes away."""

    @property
    def mean(self) -> dict[str, Float[Tensor, "..."]]:
        """The means over the prompts."""
        return {kind: values.mean(0) for kind, values in self.parts.items()}

    @property
    def total(self) -> Float[Tensor, " example"]:
        """The sum of all parts."""
        return side_by_side(self.parts).sum(1)

    def ranked(self, k: int | None = None) -> list[tuple[str, float]]:
        """Names and means of the `k` parts with the largest means by magnitude; of all by default."""
        found: list[tuple[str, float]] = []
        for kind, values in self.mean.items():
            flat = values.flatten()
            top = flat.abs().topk(min(k or len(flat), len(flat))).indices
            places = zip(*(axis.tolist() for axis in torch.unravel_index(top, values.shape)), strict=True)
            names = [self.name(kind, *place) for place in places] if values.ndim else [kind]
            found += zip(names, flat[top].tolist(), strict=True)
        return sorted(found, key=lambda item: -abs(item[1]))[:k]

    def name(self, kind: str, *place: int) -> str:
        """The name of a part: "L2H3", "L2 MLP", "L2H3 from ' Anna' (5)"."""
        if not place:
            return kind
        first, *rest = place
        match kind:
            case "latent":
                return f"latent {first}"
            case "layer":
                return f"L{first}"
            case "head" | "neuron":
                return f"L{first}{kind[0].upper()}{rest[0]}"
            case "head from":
                token = f"{self.strings[rest[1]]!r} ({rest[1]})" if self.strings else f"position {rest[1]}"
                return f"L{first}H{rest[0]} from {token}"
        return f"L{first} {kind}"

    def __str__(self) -> str:
        """The twelve largest parts, and what all come to."""
        largest = self.ranked(12)
        rest = sum(values[0].numel() for values in self.parts.values()) - len(largest)
        lines = [f"{self.question}, by {self.by}"]
        lines += [f"  {value:+8.3f}  {name}" for name, value in largest]
        lines += [f"            and {rest:,} more"] if rest else []
        after = "" if torch.equal(self.logits, self.before_cap) else f", after its soft cap {self.logits.mean():+.3f}"
        lines.append(f"  {self.total.mean():+8.3f}  in all; the model's own is {self.before_cap.mean():+.3f}{after}")
        return "\n".join(lines)


def attribute(
    model: HookedModel,
    pairs: PromptPairs | Sequence[PromptPairs],
    *,
    by: str = "sublayer",
    metric: Metric = LOGIT_DIFFERENCE,
    sae: Autoencoder | None = None,
    site: str | None = None,
    batch_size: int = 16,
) -> Attribution:
    """Split the logits at the end of the clean prompts, the answer's less the distractor's, `by` one of `LEVELS`.

    With the metric `LOGIT`, the answer's alone. "latent" takes an `sae` and the `site` it reads: the residual stream,
    where its latents stand for all that was written before, or what one sublayer adds to it.

    Raises `SettingError` for settings that do not fit, and `ModelError` for a model whose logits are not a sum of such
    parts.
    """
    groups = [pairs] if isinstance(pairs, PromptPairs) else list(pairs)
    site = _check(model, groups, by, metric, sae, site)
    batches = [group[i : i + batch_size] for group in groups for i in range(0, len(group), batch_size)]
    found = [_attribute(model, batch, by, metric, sae, site) for batch in batches]
    parts = {kind: torch.cat([parts[kind] for parts, *_ in found]) for kind in found[0][0]}
    return Attribution(
        by=by,
        question=question(model, groups, metric),
        strings=model.token_strings(groups[0].clean[0]) if sum(map(len, groups)) == 1 else None,
        parts={kind: values for kind, values in parts.items() if values.any() or not kind.endswith("bias")},
        logits=torch.cat([logits for _, logits, _ in found]),
        before_cap=torch.cat([before for _, _, before in found]),
    )


def question(model: HookedModel, groups: Sequence[PromptPairs], metric: Metric) -> str:
    """What is asked of some prompts, in words: of one, with its answer."""
    name = metric.name.replace("_", " ").capitalize()
    n = sum(map(len, groups))
    if n > 1:
        return f"{name}, mean of {n} prompts of {groups[0].name}"
    tokens = [groups[0].answers, *([groups[0].distractors] if metric is LOGIT_DIFFERENCE else [])]
    return f"{name} of " + " and ".join(repr(model.token_strings(token)[0]) for token in tokens)


def _check(
    model: HookedModel,
    groups: list[PromptPairs],
    by: str,
    metric: Metric,
    sae: Autoencoder | None,
    site: str | None,
) -> str | None:
    if by not in LEVELS:
        raise SettingError(f"logits cannot be split by {by!r}, only by {', '.join(LEVELS)}")
    if metric not in (LOGIT, LOGIT_DIFFERENCE):
        raise SettingError(f"only logits are a sum of parts, {metric.name} is not; take logit or logit_difference")
    if not any(map(len, groups)):
        raise SettingError("there are no prompts to attribute")
    if by == "source" and len({group.clean.shape[1] for group in groups}) > 1:
        raise SettingError("prompts of several lengths have no source positions in common; take those of one length")
    if (by == "latent") != (sae is not None) or (by == "latent") != (site is not None):
        raise SettingError("an SAE and its site are needed to split by latent, and only then")
    return check_sae(model, sae, site) if by == "latent" else None


def _attribute(
    model: HookedModel, pairs: PromptPairs, by: str, metric: Metric, sae: Autoencoder | None, site: str | None
) -> tuple[Parts, Float[Tensor, " example"], Float[Tensor, " example"]]:
    """Parts, logits, and logits before the cap, on the CPU."""
    last = f"blocks.{model.info.n_layers - 1}.hook_resid_post"
    run = model.run(pairs.clean, capture=[*sites_of(model, by), last, *([site] if site else [])])
    logits = metric(run.logits[:, -1].float(), pairs, run.logits[:, -1])
    capped, raw, bias = _unembedded(model, run[last][:, -1])
    before_cap = metric(raw, pairs, raw) if capped else logits
    W_U = model.W_U.detach().float()
    direction = W_U[:, pairs.answers].T
    if metric is LOGIT_DIFFERENCE:
        direction = direction - W_U[:, pairs.distractors].T
    reading = Reading(model, run.activations, direction)
    parts = PARTS[by](reading) if by != "latent" else latents(reading, sae, site)
    parts |= {
        "norm bias": direction @ reading.norm.bias,
        "unembedding bias": metric(bias, pairs, bias),
    }
    _check_sum(model, parts, before_cap, run.logits.dtype)
    return {kind: values.cpu() for kind, values in parts.items()}, logits.cpu(), before_cap.cpu()


def _unembedded(
    model: HookedModel, final: Float[Tensor, "example d_model"]
) -> tuple[bool, Float[Tensor, "example d_vocab"], Float[Tensor, "example d_vocab"]]:
    """Whether the model caps its logits, the logits of a final stream without the cap, and the unembedding's bias.

    Raises `ModelError` if the model's logits are not its final norm and unembedding alone.
    """
    capped = model.unembed(final).float()
    with torch.no_grad():
        raw = model.bridge.unembed(model.bridge.ln_final(final)).float()
        bias = model.bridge.unembed(torch.zeros_like(final)).float()
    return not torch.equal(capped, raw), raw, bias


def _check_sum(model: HookedModel, parts: Parts, expected: Float[Tensor, " example"], dtype: torch.dtype) -> None:
    """Raises `ModelError` if the parts of any prompt miss the logits by more than rounding."""
    flat = side_by_side(parts)
    missed = (flat.sum(1) - expected).abs()
    if (missed > torch.finfo(dtype).eps ** 0.5 * flat.abs().sum(1)).any():
        raise ModelError(
            f"the parts of {model.info.name} miss its logits by up to {missed.max():.3g}: "
            "its layers add more to the residual stream than attention and MLPs"
        )
