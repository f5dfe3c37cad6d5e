"""Effects: what steering is to bring about, as a number for each prompt."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from workbench.corpus import Corpus, concept_index
from workbench.edits import Edit
from workbench.errors import CorpusError
from workbench.generation import Generation
from workbench.metrics import LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel, Prompts
from workbench.prompts import PromptPairs


@dataclass(frozen=True)
class Response:
    """What one set of edits came to: a value for each prompt, and the texts if the model wrote some."""

    values: Float[Tensor, " prompt"]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """What steering is to bring about."""

    name: str
    respond: Callable[[Sequence[Edit]], Response]
    is_rate: bool = False
    """Whether each value is 0 or 1."""


def concept_rate(
    model: HookedModel,
    prompts: Prompts,
    said: Collection[int] | Callable[[Generation], bool],
    *,
    name: str = "concept",
    max_new_tokens: int = 40,
    **sampling: int | float | bool | None,
) -> Effect:
    """The share of continuations that contain a concept: one of the tokens `said`, or what a function of yours says.

    Every dose continues the same prompts with the same seeds; `sampling` is for `HookedModel.generate_batch`.
    """
    holds = said if callable(said) else _contains(frozenset(said))

    def respond(edits: Sequence[Edit]) -> Response:
        written = model.generate_batch(prompts, edits=edits, max_new_tokens=max_new_tokens, **sampling)
        return Response(torch.tensor([float(holds(one)) for one in written]), tuple(map(str, written)))

    return Effect(f"continuations with {name}", respond, is_rate=True)


def _contains(said: frozenset[int]) -> Callable[[Generation], bool]:
    return lambda written: not said.isdisjoint(written.new_tokens.tolist())


def says(model: HookedModel, words: Collection[str]) -> Callable[[Generation], bool]:
    """Whether a continuation has one of these words, as a whole word, however it is split into tokens."""
    pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, words)) + r")(?!\w)")
    return lambda written: bool(pattern.search(model.to_string(written.new_tokens)))


def metric_effect(model: HookedModel, pairs: PromptPairs, metric: Metric = LOGIT_DIFFERENCE) -> Effect:
    """A metric of the clean prompts, such as the logit difference between answer and distractor."""
    clean = model.run(pairs.clean).logits[:, -1]

    def respond(edits: Sequence[Edit]) -> Response:
        return Response(metric(model.run(pairs.clean, edits=edits).logits[:, -1], pairs, clean).float().cpu())

    return Effect(metric.name.replace("_", " "), respond)


def concept_tokens(corpus: Corpus, concept: str, *, n_tokens: int = 50_000) -> frozenset[int]:
    """The tokens that have a concept most times that they occur in a labelled corpus.

    Raises `SettingError` for a concept that the corpus does not label, `CorpusError` if no token is mostly that.
    """
    bit, read, balance = concept_index(corpus.name, corpus.concepts, concept), 0, torch.zeros(0, dtype=torch.int64)
    for batch in corpus.batches(32):
        keep = batch.mask()
        tokens, has = batch.tokens[keep], batch.label_bits[keep] >> bit & 1
        size = max(len(balance), int(tokens.max()) + 1)
        balance = torch.nn.functional.pad(balance, (0, size - len(balance)))
        balance.index_add_(0, tokens, 2 * has - 1)  # above zero where more occurrences have it than have it not
        read += len(tokens)
        if read >= n_tokens:
            break
    if not (said := frozenset((balance > 0).nonzero()[:, 0].tolist())):
        raise CorpusError(f"no single token of {corpus.name} stands for {concept!r}; say which words do")
    return said


def beginnings(corpus: Corpus, n: int, length: int) -> Int64[Tensor, "n length"]:
    """The first `length` tokens of `n` documents, as prompts. Raises `CorpusError` if there are not so many."""
    found: list[Tensor] = []
    for batch in corpus.batches(32):
        for tokens, documents in zip(batch.tokens, batch.documents, strict=True):
            starts = (documents[1:] != documents[:-1]).nonzero()[:, 0] + 1
            for start in (0, *starts.tolist()):
                own = documents[start : start + length]
                if len(own) == length and own[0] >= 0 and (own == own[0]).all():
                    found.append(tokens[start : start + length])
        if len(found) >= n:
            return torch.stack(found[:n])
    raise CorpusError(f"{corpus.name} has {len(found)} documents of {length} tokens or more, not {n}")
