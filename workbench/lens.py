"""The logit lens: what the model would predict if it stopped after each layer.

nostalgebraist, "interpreting GPT: the logit lens" (2020): the residual stream of every layer is passed through the
model's own final norm and unembedding.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import SettingError
from workbench.model import HookedModel

EMBEDDING = "blocks.0.hook_resid_pre"
LAYERS = "blocks.*.hook_resid_post"


@dataclass(frozen=True)
class LensResult:
    """Predictions read off the residual stream.

    Row 0 is the embedding, row i + 1 the output of layer i, the last row the model's own prediction. Ranks count from
    1, the most probable token; entropy and divergence are in nats. `next_*` concern the token that really follows, so
    they have no column for the last position.
    """

    tokens: Int[Tensor, " pos"]
    strings: list[str]
    sites: list[str]
    labels: list[str]
    """Short names of the rows: "embed", "0", "1", …"""
    top_tokens: Int[Tensor, "row pos k"]
    top_strings: list[list[list[str]]]
    top_probs: Float[Tensor, "row pos k"]
    entropy: Float[Tensor, "row pos"]
    kl_to_final: Float[Tensor, "row pos"]
    """KL(final ‖ row): what is lost by reading the row in place of the final distribution. Zero in the last row."""
    final_rank: Int[Tensor, "row pos"]
    """Rank, in the row, of the token that the model finally predicts."""
    next_rank: Int[Tensor, "row pos-1"]
    next_prob: Float[Tensor, "row pos-1"]

    def __str__(self) -> str:
        """For the last position, one line a row: the top tokens, the entropy, the divergence from the final row."""
        lines = [f"Logit lens after {self.strings[-1]!r} (position {len(self.strings) - 1})"]
        for row, label in enumerate(self.labels):
            top = zip(self.top_strings[row][-1], self.top_probs[row, -1].tolist(), strict=True)
            words = "  ".join(f"{string!r} {prob:.3f}" for string, prob in top)
            entropy, kl = self.entropy[row, -1].item(), self.kl_to_final[row, -1].item()
            lines.append(f"  {label:>5}  entropy {entropy:5.2f}  KL {kl:6.2f}  {words}")
        return "\n".join(lines)


def logit_lens(model: HookedModel, prompt: str | Int[Tensor, " pos"], *, k: int = 5) -> LensResult:
    """Decode the residual stream before layer 0 and after every layer, at every position.

    One row of logits is held at a time, so memory is that of one forward.
    Raises `PromptError` for an empty prompt or one longer than the context, `SettingError` for k outside 1..d_vocab.
    """
    if not 1 <= k <= model.info.d_vocab:
        raise SettingError(f"k is {k}; it must be between 1 and the vocabulary's {model.info.d_vocab} tokens")
    tokens = model.to_tokens(prompt)[0] if isinstance(prompt, str) else prompt.to(model.device)
    run = model.run(tokens[None], capture=[EMBEDDING, LAYERS])
    sites = [EMBEDDING] + [LAYERS.replace("*", str(layer)) for layer in range(model.info.n_layers)]
    final = model.unembed(run[sites[-1]][0]).float().log_softmax(-1)
    rows = [_read(model.unembed(run[site][0]).float().log_softmax(-1), final, tokens, k) for site in sites]
    columns = {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]}
    string = {token: model.token_strings(torch.tensor([token]))[0] for token in columns["top_tokens"].unique().tolist()}
    return LensResult(
        tokens=tokens.cpu(),
        strings=model.token_strings(tokens),
        sites=sites,
        labels=["embed"] + [str(layer) for layer in range(model.info.n_layers)],
        top_strings=[[[string[t] for t in cell] for cell in row] for row in columns["top_tokens"].tolist()],
        **columns,
    )


def _read(
    row: Float[Tensor, "pos d_vocab"], final: Float[Tensor, "pos d_vocab"], tokens: Int[Tensor, " pos"], k: int
) -> dict[str, Tensor]:
    """The numbers of one row of the lens, from log-probabilities."""
    probs = row.exp()
    top_probs, top_tokens = probs.topk(k, dim=-1)
    following = row[:-1].gather(-1, tokens[1:, None])
    predicted = row.gather(-1, final.argmax(-1, keepdim=True))
    return {
        "top_tokens": top_tokens,
        "top_probs": top_probs,
        "entropy": torch.special.entr(probs).sum(-1),
        "kl_to_final": (final.exp() * (final - row)).sum(-1).clamp_min(0.0),
        "final_rank": 1 + (row > predicted).sum(-1),
        "next_rank": 1 + (row[:-1] > following).sum(-1),
        "next_prob": following[:, 0].exp(),
    }
