"""Texts of the user's own, with labels if they have them: read from a JSON Lines file, and served as a corpus."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from workbench.activations import harvest, special_ids
from workbench.corpus import START, Position, TokenBatch
from workbench.errors import CorpusError, DamagedFile, PromptError, SettingError
from workbench.files import read_records
from workbench.model import HookedModel
from workbench.tokens import starts_with_bos

MOST_LABELS = 63
"""Labels of tokens are the bits of one integer."""

POOLS = ("last", "mean")
"""What stands for a whole text: its last token, or the mean of its tokens."""


@dataclass(frozen=True)
class LabelledText:
    """A text with a label for all of it, or labels for stretches of it."""

    text: str
    label: str | None = None
    spans: tuple[tuple[int, int, str], ...] = ()
    """(first character, one past the last, label)."""


def read_labelled(path: str | Path) -> list[LabelledText]:
    """Texts from a .jsonl or .csv file with the fields `text` and `label`, or, to label tokens, `text` and `spans`.

    `spans` is a list of [first character, one past the last, label]. Raises `DamagedFile`, naming the line.
    """
    texts = [_labelled(record, f"{path}, line {number}") for number, record in read_records(path)]
    if not texts:
        raise DamagedFile(f"{path} holds no labelled texts")
    return texts


def _labelled(record: dict[str, Any], where: str) -> LabelledText:
    try:
        text = str(record["text"])
        if "spans" not in record:
            return LabelledText(text, str(record["label"]))
        spans = tuple((int(start), int(stop), str(label)) for start, stop, label in record["spans"])
    except (KeyError, TypeError, ValueError):
        shapes = '{"text": …, "label": …} or {"text": …, "spans": [[start, stop, label], …]}'
        raise DamagedFile(f"{where}: should be {shapes}") from None
    for start, stop, label in spans:
        if not 0 <= start < stop <= len(text):
            raise DamagedFile(f"{where}: {label!r} spans characters {start} to {stop} of a text of {len(text)}")
    return LabelledText(text, spans=spans)


def read_labels(path: str | Path) -> tuple[list[str], list[str]]:
    """Texts and their labels, from a file in which every text has one label. Raises `DamagedFile`."""
    return whole_labels(read_labelled(path), path)


def whole_labels(texts: Sequence[LabelledText], path: str | Path) -> tuple[list[str], list[str]]:
    """Texts and their labels; raises `DamagedFile`, blaming `path`, if one has none."""
    if any(one.label is None for one in texts):
        raise DamagedFile(f"{path}: some texts have spans; each needs one label")
    return [one.text for one in texts], [one.label for one in texts]


class TextCorpus:
    """Texts as a `Corpus`: one a row, the shortest first, padded at the end, where a causal model does not see it.

    Text i is document i. A text of more than `context` tokens is cut. The labels of spans are the corpus's concepts: a
    token has a label if the span covers any of it.
    """

    def __init__(
        self, texts: Sequence[LabelledText], tokenizer: PreTrainedTokenizerBase, context: int, name: str = "texts"
    ) -> None:
        self.name, self.context = name, context
        self.concepts = tuple(sorted({label for text in texts for *_, label in text.spans}))
        if len(self.concepts) > MOST_LABELS:
            raise CorpusError(f"the texts have {len(self.concepts)} different labels; at most {MOST_LABELS} are read")
        if self.concepts and not tokenizer.is_fast:
            raise CorpusError("labels of stretches of text need a tokenizer that knows where its tokens stand")
        self._bos = [tokenizer.bos_token_id] if starts_with_bos(tokenizer) else []
        rows = [self._row(text, tokenizer) for text in texts]
        self._order = sorted(range(len(rows)), key=lambda number: len(rows[number][0]))
        self._rows = rows

    def _row(self, text: LabelledText, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """Token ids and the labels of each."""
        encoded = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=bool(text.spans))
        ids = encoded["input_ids"]
        if not ids:
            raise PromptError(f"there are no tokens in the text {text.text!r}")
        bits = [0] * len(ids)
        for number, (start, stop) in enumerate(encoded.get("offset_mapping", ())):
            for first, end, label in text.spans:
                if start < end and stop > first:
                    bits[number] |= 1 << self.concepts.index(label)
        return (self._bos + ids)[: self.context], ([0] * len(self._bos) + bits)[: self.context]

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def fingerprint(self) -> str:
        facts = (self.context, self.concepts, self._rows)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def batches(self, batch_size: int, position: Position = START, repeat: bool = False) -> Iterator[TokenBatch]:
        epoch, start = position.epoch, position.context
        while True:
            for first in range(start, len(self._rows), batch_size):
                numbers = self._order[first : first + batch_size]
                yield self._batch(numbers, Position(epoch, 0, first + len(numbers)))
            if not repeat:
                return
            epoch, start = epoch + 1, 0

    def _batch(self, numbers: list[int], position: Position) -> TokenBatch:
        width = max(len(self._rows[number][0]) for number in numbers)

        def padded(rows: list[list[int]], fill: int) -> Tensor:
            return torch.tensor([row + [fill] * (width - len(row)) for row in rows])

        tokens = [self._rows[number][0] for number in numbers]
        return TokenBatch(
            tokens=padded(tokens, 0),
            documents=padded([[number] * len(row) for number, row in zip(numbers, tokens, strict=True)], -1),
            position=position,
            concepts=self.concepts,
            label_bits=padded([self._rows[number][1] for number in numbers], 0) if self.concepts else None,
        )


def pooled_activations(
    model: HookedModel, texts: Sequence[str], sites: Sequence[str], *, pool: str = "last", batch_size: int = 32
) -> dict[str, Float[Tensor, "text d"]]:
    """One activation for each text, by site, on the CPU: its last token's, or the mean of all but special tokens.

    Texts are cut at the model's context. Raises `PromptError` for a text without tokens, and what `harvest` raises.
    """
    if pool not in POOLS:
        raise SettingError(f"pool is {pool!r}; it must be 'last' or 'mean'")
    if model.tokenizer is None:
        raise PromptError(f"{model.info.name} has no tokenizer, so it cannot read texts")
    corpus = TextCorpus([LabelledText(text) for text in texts], model.tokenizer, model.info.n_ctx)
    skip = special_ids(model.tokenizer)
    found: dict[str, list[Tensor]] = {}
    numbers: list[Tensor] = []
    for batch in harvest(model, corpus, sites, batch_size=batch_size):
        keep = batch.mask(skip)
        if pool == "last":
            last = torch.where(keep, torch.arange(keep.shape[1]), -1).amax(1, keepdim=True)
            keep = torch.arange(keep.shape[1]) == last
        weight = keep.float() / keep.sum(1, keepdim=True)
        numbers.append(batch.documents[:, 0])
        for site, activation in batch.activations.items():
            rows = torch.einsum("bp,bpd->bd", weight.to(activation.device), activation.float())
            found.setdefault(site, []).append(rows.cpu())
    order = torch.cat(numbers).argsort()
    return {site: torch.cat(rows)[order] for site, rows in found.items()}
