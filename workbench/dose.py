"""Dose and response: how far a direction brings the wanted effect, and what it costs the model, at every dose."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from workbench.corpus import Corpus, TokenBatch
from workbench.directions import Direction
from workbench.edits import Edit, Selection
from workbench.effects import Effect
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel
from workbench.steering import steering_edit

DOSES = (0.25, 0.5, 0.75, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)
BUDGET = 0.1
"""The rise in loss that is thought bearable, as a share of the loss."""


@dataclass(frozen=True)
class Damage:
    """What edits do to the model on a text that has nothing to do with them."""

    loss: Float[Tensor, " edits"]
    """Mean cross-entropy of the next token, in nats."""
    kl: Float[Tensor, " edits"]
    """Mean KL(plain ‖ edited) of the next token's distribution, in nats."""
    plain_loss: float
    n_tokens: int


def damage(
    model: HookedModel, corpus: Corpus, edits: Sequence[Sequence[Edit]], *, n_tokens: int = 4000, batch_size: int = 16
) -> Damage:
    """Loss and KL of the model under each set of edits, on the first `n_tokens` tokens of a corpus (whole batches).

    Tokens are predicted from the document that they belong to, never across a border. Raises `CorpusError` if there is
    nothing to predict.
    """
    sums, plain_sum, n = torch.zeros(2, len(edits), dtype=torch.float64), 0.0, 0
    for batch in corpus.batches(batch_size):
        mask, plain = _inside(batch), model.run(batch.tokens).logits[:, :-1]
        targets = batch.tokens[:, 1:][mask].to(plain.device)
        plain = plain[mask.to(plain.device)].float().log_softmax(-1)
        plain_sum += _loss(plain, targets)
        for number, chosen in enumerate(edits):
            logits = model.run(batch.tokens, edits=chosen).logits[:, :-1]
            edited = logits[mask.to(plain.device)].float().log_softmax(-1)
            sums[0, number] += _loss(edited, targets)
            sums[1, number] += (plain.exp() * (plain - edited)).sum().item()
        n += len(targets)
        if n >= n_tokens:
            break
    if not n:
        raise CorpusError(f"{corpus.name} has no token to predict from one before it")
    loss, kl = (sums / n).float()
    return Damage(loss, kl.clamp_min(0), plain_sum / n, n)


def _inside(batch: TokenBatch) -> Bool[Tensor, "batch _"]:
    """[batch, pos - 1] positions whose next token belongs to the same document."""
    return (batch.documents[:, :-1] == batch.documents[:, 1:]) & batch.mask()[:, 1:]


def _loss(log_probs: Float[Tensor, "token d_vocab"], targets: Int[Tensor, " token"]) -> float:
    return -log_probs.gather(-1, targets[:, None]).sum().item()


@dataclass(frozen=True)
class DoseResponse:
    """The effect and the damage at each dose. Prints a table, with the chosen dose marked."""

    direction: Direction
    how: str
    effect: str
    is_rate: bool
    doses: tuple[float, ...]
    values: Float[Tensor, "dose prompt"]
    """The effect on each prompt."""
    plain_values: Float[Tensor, " prompt"]
    damage: Damage
    texts: tuple[tuple[str, ...], ...]
    """What the model wrote at each dose, a text for each prompt, if it wrote."""
    plain_texts: tuple[str, ...]
    budget: float

    @property
    def response(self) -> Float[Tensor, " dose"]:
        """The mean effect."""
        return self.values.mean(1)

    @property
    def interval(self) -> tuple[Float[Tensor, " dose"], Float[Tensor, " dose"]]:
        """A 95% interval of the mean effect over prompts: Wilson's for a rate, else two standard errors each way."""
        n, mean = self.values.shape[1], self.response
        if not self.is_rate:
            error = 1.96 * self.values.std(1, correction=1 if n > 1 else 0) / sqrt(n)
            return mean - error, mean + error
        z2 = 1.96**2 / n
        middle = (mean + z2 / 2) / (1 + z2)
        half = (z2 * (mean * (1 - mean) + z2 / 4)).sqrt() / (1 + z2)
        return middle - half, middle + half

    @property
    def rise(self) -> Float[Tensor, " dose"]:
        """The rise in loss, as a share of the plain model's."""
        return self.damage.loss / self.damage.plain_loss - 1

    @property
    def chosen(self) -> int | None:
        """The dose with the strongest effect of those within the budget, the smallest of equals; None if none helps."""
        bearable = torch.where(self.rise < self.budget, self.response, -torch.inf)
        best = int(bearable.argmax())
        return best if bearable[best] > self.plain_values.mean() else None

    def __str__(self) -> str:
        number = "{:>8.1%}" if self.is_rate else "{:>8.2f}"
        lines = [
            f"{self.how} {self.direction}",
            "",
            f"    dose  {self.effect}, loss, KL on {self.damage.n_tokens:,} tokens",
        ]
        lines.append(f"   plain  {number.format(self.plain_values.mean().item())}  {self.damage.plain_loss:.3f}")
        rows = zip(self.doses, self.response.tolist(), self.damage.loss.tolist(), self.rise.tolist(), strict=True)
        for row, (dose, value, loss, rise) in enumerate(rows):
            mark = "  ←" if row == self.chosen else ""
            kl = self.damage.kl[row].item()
            lines.append(f"{dose:>8g}  {number.format(value)}  {loss:.3f} ({rise:+.1%})  {kl:.3f}{mark}")
        if self.chosen is None:
            lines += ["", f"No dose has an effect at less than {self.budget:.0%} more loss."]
        elif self.plain_texts:
            lines += ["", f"plain:   {self.plain_texts[0]}", f"steered: {self.texts[self.chosen][0]}"]
        return "\n".join(lines)


def dose_response(
    model: HookedModel,
    direction: Direction,
    effect: Effect,
    corpus: Corpus,
    *,
    doses: Sequence[float | int] = DOSES,
    how: str = "add",
    positions: Selection = None,
    budget: float = BUDGET,
    n_tokens: int = 4000,
    progress: bool = False,
) -> DoseResponse:
    """Steer at each dose: measure the effect, and the damage on the first `n_tokens` tokens of `corpus`.

    Effect and damage are measured under the same edit. Raises `SettingError` for no doses and for ablation, which has
    none; `ModelError` for a direction of another model.
    """
    if not doses or how == "ablate":
        raise SettingError("a dose-response study needs doses to add or to clamp to")
    direction.check(model)
    edits = [[steering_edit(direction, dose, how, positions=positions)] for dose in doses]
    plain = effect.respond([])
    bar = tqdm(edits, desc="doses", disable=not progress, leave=False)
    responses = [effect.respond(edit) for edit in bar]
    return DoseResponse(
        direction=direction,
        how=how,
        effect=effect.name,
        is_rate=effect.is_rate,
        doses=tuple(map(float, doses)),
        values=torch.stack([one.values for one in responses]),
        plain_values=plain.values,
        damage=damage(model, corpus, edits, n_tokens=n_tokens),
        texts=tuple(one.texts for one in responses),
        plain_texts=plain.texts,
        budget=budget,
    )
