"""The logit lens: what the model would predict from what it has computed so far, or from one part of it alone.

nostalgebraist, "interpreting GPT: the logit lens" (2020): the residual stream of every layer is passed through the
model's own final norm and unembedding. What a sublayer or a head adds to the stream is read by the final norm with its
scale held where it is at the end of the stream, so that the logits of all parts add up to the model's.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.errors import SettingError
from workbench.model import HookedModel, Run
from workbench.norms import freeze
from workbench.residual import attention_output
from workbench.sites import layer_of
from workbench.tuned_lens import EMBEDDING, LAYERS, TunedLens

READ = ("layers", "stream", "sublayers", "heads")
"""What can be read: the residual stream after each layer, or after each sublayer; what each sublayer adds to it, or
each head."""

Row = tuple[str, str, Float[Tensor, "pos d_vocab"]]
"""Label, site and logits of a row; rows come one after another, so that one is held at a time."""


@dataclass(frozen=True)
class LensResult:
    """Predictions read off the inside of a model, one row for each place and one column for each position.

    Ranks count from 1, the most probable token; entropy and divergence are in nats. `next_*` concern the token that
    really follows, so they have no column for the last position.
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
    """KL(final ‖ row): what is lost by reading the row in place of the model's own prediction."""
    final_rank: Int[Tensor, "row pos"]
    """Rank, in the row, of the token that the model finally predicts."""
    next_rank: Int[Tensor, "row pos-1"]
    next_prob: Float[Tensor, "row pos-1"]
    lens: str = "Logit lens"
    read: str = "layers"
    """What the rows are: one of `READ`."""

    def __str__(self) -> str:
        """For the last position, one line a row: the top tokens, the entropy, the divergence from the final row."""
        lines = [f"{self.lens} after {self.strings[-1]!r} (position {len(self.strings) - 1})"]
        width = max(5, *map(len, self.labels))
        for row, label in enumerate(self.labels):
            top = zip(self.top_strings[row][-1], self.top_probs[row, -1].tolist(), strict=True)
            words = "  ".join(f"{string!r} {prob:.3f}" for string, prob in top)
            entropy, kl = self.entropy[row, -1].item(), self.kl_to_final[row, -1].item()
            lines.append(f"  {label:>{width}}  entropy {entropy:5.2f}  KL {kl:6.2f}  {words}")
        return "\n".join(lines)


def logit_lens(
    model: HookedModel,
    prompt: str | Int[Tensor, " pos"],
    *,
    read: str = "layers",
    tuned: TunedLens | None = None,
    k: int = 5,
) -> LensResult:
    """Decode what the model holds at every position, at each of the places that `read` (one of `READ`) names.

    "layers" and "stream" begin with the embedding and end with the model's own prediction; a `tuned` lens translates
    the rows before. "sublayers" and "heads" are read without the biases of the final norm and unembedding, and without
    a soft cap: with them, the logits of the embedding and all sublayers add up to the model's.

    One row of logits is held at a time, so memory is that of one forward. Raises `PromptError` for an empty prompt or
    one longer than the context, `SettingError` for k outside 1..d_vocab and for another `read`.
    """
    if read not in READ:
        raise SettingError(f"a lens reads {', '.join(READ)}, not {read!r}")
    if tuned is not None and read != "layers":
        raise SettingError(f"a tuned lens has a translator for each layer; it cannot read {read}")
    if tuned is not None:
        tuned.check(model)
    tokens = model.to_tokens(prompt)[0] if isinstance(prompt, str) else prompt.to(model.device)
    n_layers = model.info.n_layers
    last = LAYERS.replace("*", str(n_layers - 1))
    sites = [site for layer in range(n_layers) for site in _sites(model, read, layer)]
    run = model.run(tokens[None], capture=list(dict.fromkeys([EMBEDDING, *sites, last])))
    if read == "heads":
        rows = _heads(model, run, last)
    elif read == "sublayers":
        rows = _sublayers(model, run, last)
    else:
        rows = _stream(model, run, [EMBEDDING, *sites], tuned)
    final = model.unembed(run[last][0]).float().log_softmax(-1)
    return read_rows(model, tokens, rows, final, k, lens="Logit lens" if tuned is None else "Tuned lens", read=read)


def _sites(model: HookedModel, read: str, layer: int) -> list[str]:
    """The sites of a layer that are read, in the order of their rows."""
    names = {
        "layers": ["hook_resid_post"],
        "stream": ["hook_resid_mid", "hook_resid_post"],
        "sublayers": ["hook_attn_out", "hook_mlp_out"],
        "heads": ["attn.hook_z", "hook_attn_out"],
    }[read]
    found = [f"blocks.{layer}.{name}" for name in names]
    return [site for site in found if site in model.sites or not site.endswith("resid_mid")]  # none in parallel blocks


def _stream(model: HookedModel, run: Run, sites: list[str], tuned: TunedLens | None) -> Iterator[Row]:
    """The residual stream at each site, read as if the model stopped there."""
    for site in sites:
        middle = " mid" if site.endswith("resid_mid") else ""
        label = "embed" if site == EMBEDDING else f"{layer_of(site)}{middle}"
        resid = run[site][0]
        yield label, site, model.unembed(resid if tuned is None else tuned.translate(resid, site))


def _sublayers(model: HookedModel, run: Run, last: str) -> Iterator[Row]:
    """The embedding, and what each sublayer adds to it."""
    logits = _of_parts(model, run[last][0])
    yield "embed", EMBEDDING, logits(run[EMBEDDING][0])
    for layer in range(model.info.n_layers):
        for name, site in (("attention", f"blocks.{layer}.hook_attn_out"), ("MLP", f"blocks.{layer}.hook_mlp_out")):
            yield f"L{layer} {name}", site, logits(run[site][0])


def _heads(model: HookedModel, run: Run, last: str) -> Iterator[Row]:
    """What each head adds to the residual stream: z W_O, and through the norm behind attention, if there is one."""
    logits = _of_parts(model, run[last][0])
    for layer in range(model.info.n_layers):
        z = run[site := f"blocks.{layer}.attn.hook_z"][0]
        through = attention_output(model, layer, z, run[f"blocks.{layer}.hook_attn_out"][0])
        n_heads, d_head = z.shape[1:]
        for head in range(n_heads):
            units = slice(head * d_head, (head + 1) * d_head)
            yield f"L{layer}H{head}", site, logits(through.part(z[:, head], units))


def _of_parts(model: HookedModel, final: Float[Tensor, "pos d_model"]) -> Callable[[Tensor], Tensor]:
    """The logits that a part of the final residual stream adds: those of all parts, and of the biases, sum to all."""
    norm, W_U = freeze(model.bridge.ln_final, final), model.W_U.detach().float()
    return lambda part: norm.part(part) @ W_U


def read_rows(
    model: HookedModel,
    tokens: Int[Tensor, " pos"],
    rows: Iterable[Row],
    final: Float[Tensor, "pos d_vocab"],
    k: int,
    **kind: str,
) -> LensResult:
    """What the rows predict after each of `tokens`, one after another, against the log-probabilities `final`.

    `kind` says what lens it is and what it read. Raises `SettingError` for k outside 1..d_vocab.
    """
    if not 1 <= k <= model.info.d_vocab:
        raise SettingError(f"k is {k}; it must be between 1 and the vocabulary's {model.info.d_vocab} tokens")
    labels, sites, read = [], [], []
    for label, site, logits in rows:
        labels.append(label)
        sites.append(site)
        read.append(_read(logits.float().log_softmax(-1), final, tokens, k))
    columns = {name: torch.stack([row[name] for row in read]).cpu() for name in read[0]}
    string = {token: model.token_strings(torch.tensor([token]))[0] for token in columns["top_tokens"].unique().tolist()}
    return LensResult(
        tokens=tokens.cpu(),
        strings=model.token_strings(tokens),
        sites=sites,
        labels=labels,
        top_strings=[[[string[t] for t in cell] for cell in row] for row in columns["top_tokens"].tolist()],
        **columns,
        **kind,
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
