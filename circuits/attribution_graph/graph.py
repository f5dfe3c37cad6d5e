"""Attribution graphs: latents, errors and embeddings of one prompt, and what each contributes to latents and logits.

Definitions: Ameisen et al. 2025, "Circuit tracing: revealing computational graphs in language models".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.attribution_graph.influence import Scores, scores, shares
from circuits.attribution_graph.replacement import Replacement, replace_mlps
from circuits.attribution_graph.transcoders import Transcoders
from workbench.errors import SettingError
from workbench.model import HookedModel


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """Every edge between the nodes of one prompt, as one matrix.

    Targets are latents, then logits. Sources are latents, then errors (layer by layer, position by position), then
    embeddings (position by position). An edge is what the source contributes to the target: to a latent's
    pre-activation, which for an active latent is its activation, or to a logit less the mean logit (or less another
    token's). So every row, with
    what biases and left-out latents contribute, adds up to its target's `total`.
    """

    model: str
    tokens: Int[Tensor, " pos"]
    strings: list[str]
    prompt: str
    n_layers: int
    transcoders: list[str]
    """What stands for each MLP, in order of the layers; a layer without a transcoder has errors only."""
    latents: Int[Tensor, "latent 3"]
    """Layer, position and index of each latent: rising in all three."""
    activations: Float[Tensor, " latent"]
    logit_tokens: Int[Tensor, " logit"]
    logit_strings: list[str]
    """The tokens; where another token's logit is taken off, "this - other"."""
    probabilities: Float[Tensor, " logit"]
    """The model's own, of the token after the prompt."""
    edges: Float[Tensor, "target source"]
    bias: Float[Tensor, " target"]
    left_out: Float[Tensor, " target"]
    """Contributions of active latents that the graph has no room for."""
    totals: Float[Tensor, " target"]
    n_active: int
    """Active latents, the left-out ones included."""

    @property
    def n_latents(self) -> int:
        return len(self.latents)

    @property
    def n_positions(self) -> int:
        return len(self.tokens)

    @property
    def first_embedding(self) -> int:
        """The source that is the first position's embedding; errors lie between latents and embeddings."""
        return self.n_latents + self.n_layers * self.n_positions

    @cached_property
    def scores(self) -> Scores:
        """How much of the graph is explained."""
        return scores(self.edges, self.probabilities, self.n_positions)

    def __str__(self) -> str:
        per_layer = self.latents[:, 0].bincount(minlength=self.n_layers).tolist()
        kept = "" if self.n_active == self.n_latents else f" of {self.n_active:,} active"
        logits = zip(self.logit_strings, self.probabilities.tolist(), strict=True)
        return "\n".join(
            [
                f"Attribution graph of {self.model} on {self.prompt!r}",
                f"  {self.n_latents:,} latents{kept} over {self.n_positions} positions; by layer: "
                + " ".join(map(str, per_layer)),
                "  logits  " + "  ".join(f"{string!r} {probability:.3f}" for string, probability in logits),
                f"  replacement score {self.scores.replacement:.3f}, completeness {self.scores.completeness:.3f}"
                " (1: no influence of errors)",
            ]
        )


def attribution_graph(
    model: HookedModel,
    prompt: str | Int[Tensor, " pos"],
    transcoders: Transcoders,
    *,
    logits: Sequence[int] | None = None,
    against: int | None = None,
    probability: float = 0.95,
    max_logits: int = 10,
    max_latents: int = 8192,
    on_progress: Callable[[int, int], None] | None = None,
) -> AttributionGraph:
    """The graph of a prompt, from the logits of the next token back to the embeddings.

    `logits`: the tokens to explain; by default the likeliest, until they have `probability` together or are
    `max_logits`. A logit is explained less the mean logit, or less that of the token `against`: then the graph is of
    why the one and not the other. If more than `max_latents` are active, the most influential are kept, which takes a
    second pass; memory is then about 4 · max_latents² bytes. `on_progress` is called with the latents done and those
    to do.
    Raises `SettingError`, `PromptError`, and `ModelError` for a model that is not linear between its MLPs.
    """
    tokens = model.to_tokens(prompt)[0] if isinstance(prompt, str) else prompt.to(model.device)
    local = replace_mlps(model, tokens, transcoders)
    explained = _explained(local, logits, against, probability, max_logits)
    kept = torch.ones(local.starts[-1], dtype=torch.bool)
    if len(kept) > max_latents:
        influence = _streamed_influence(local, explained, against, on_progress)
        kept[influence.argsort(descending=True)[max_latents:]] = False
    edges, bias, left_out = _edges(local, explained, against, kept, on_progress)
    totals = torch.cat([local.activations.cpu()[kept], local.logits(explained, against).cpu()])
    return AttributionGraph(
        model=model.info.name,
        tokens=tokens.cpu(),
        strings=(strings := model.token_strings(tokens)),
        prompt=model.to_string(tokens) if model.tokenizer else " ".join(strings),
        n_layers=len(local.layers),
        transcoders=[sae.site for sae in transcoders.values()],
        latents=local.latents.cpu()[kept],
        activations=local.activations.cpu()[kept],
        logit_tokens=explained.cpu(),
        logit_strings=_names(model, explained, against),
        probabilities=local.probabilities[explained].cpu(),
        edges=edges,
        bias=bias,
        left_out=left_out,
        totals=totals,
        n_active=len(kept),
    )


def _names(model: HookedModel, tokens: Int[Tensor, " logit"], against: int | None) -> list[str]:
    names = model.token_strings(tokens)
    return names if against is None else [f"{name} - {model.token_strings([against])[0]}" for name in names]


def _explained(
    local: Replacement, logits: Sequence[int] | None, against: int | None, probability: float, max_logits: int
) -> Int[Tensor, " logit"]:
    d_vocab = len(local.probabilities)
    if against is not None and (not 0 <= against < d_vocab or against in (logits or [])):
        raise SettingError(f"against is {against}; it must be a token up to {d_vocab - 1}, and none to be explained")
    if logits is not None:
        if not len(logits) or not all(0 <= token < d_vocab for token in logits) or len(set(logits)) < len(logits):
            raise SettingError(f"logits must be different tokens between 0 and {d_vocab - 1}, not {list(logits)}")
        return torch.tensor(logits, device=local.probabilities.device)
    if not 0 < probability <= 1 or max_logits < 1:
        raise SettingError(f"probability is {probability} and max_logits {max_logits}; they must be in (0, 1] and >= 1")
    top = local.probabilities.topk(min(max_logits, d_vocab))
    enough = top.indices[: int((top.values.cumsum(0) < probability).sum()) + 1]
    return enough if against is None else enough[enough != against]


def _streamed_influence(
    local: Replacement,
    explained: Int[Tensor, " logit"],
    against: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> Float[Tensor, " latent"]:
    """Every latent's influence on the logits, without the matrix of edges: each is known before its own inputs are."""
    n = local.starts[-1]
    rows, _ = local.to_logits(explained, against)
    influence = local.probabilities[explained] @ shares(rows)
    for batch, rows, _ in local.to_latents(torch.ones(n, dtype=torch.bool)):
        influence += influence[batch] @ shares(rows)
        if on_progress:
            on_progress(n - batch.start, n)
    return influence[:n].cpu()


def _edges(
    local: Replacement,
    explained: Int[Tensor, " logit"],
    against: int | None,
    kept: Bool[Tensor, " latent"],
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Edges between the kept latents, biases, and what latents that are not kept contribute; on the CPU."""
    n_kept, n = int(kept.sum()), len(kept)
    n_targets, n_others = n_kept + len(explained), local.n_sources - n
    edges = torch.zeros(n_targets, n_kept + n_others)
    bias, left_out = torch.zeros(n_targets), torch.zeros(n_targets)
    columns = torch.cat([kept, torch.ones(n_others, dtype=torch.bool)])
    number = kept.cumsum(0) - 1

    def put(targets: Tensor | slice, rows: Tensor, constant: Tensor) -> None:
        rows = rows.cpu()
        edges[targets], bias[targets] = rows[:, columns], constant.cpu()
        left_out[targets] = rows[:, ~columns].sum(1)

    put(slice(n_kept, None), *local.to_logits(explained, against))
    for batch, rows, constant in local.to_latents(kept):
        chosen = kept[batch]
        put(number[batch][chosen], rows[chosen.to(rows.device)], constant[chosen.to(rows.device)])
        if on_progress:
            on_progress(n - batch.start, n)
    return edges, bias, left_out
