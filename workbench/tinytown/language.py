"""The generator: texts of Tinytown as token ids with concept labels, made many at a time from a seed.

A chunk is made in two steps. The plan: for each of some hundred documents a genre, a cast of three names, and a list of
sentence patterns. The filling: for each pattern all its occurrences in the chunk at once, written into one flat array.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import numpy as np
from numpy.typing import NDArray

from workbench.errors import CorpusError
from workbench.tinytown import skills
from workbench.tinytown.concepts import CONCEPTS, lexical_masks, mask
from workbench.tinytown.lexicon import DOMAINS
from workbench.tinytown.template import Slot, Template, draw, is_held_out, sizes

BOS, UNKNOWN = "<bos>", "<unk>"
SPECIAL = (BOS, UNKNOWN)
CAST = ("name", "name2", "name3")
RANDOM_LENGTH = (16, 110)
"""Words in a text of random words."""
RANDOM_WORDS = 48
"""Different words in a text of random words, at most."""
ALL_WORDS = 0.6
"""Share of the fragments that draw from the whole vocabulary, not from words of one kind."""


@dataclass(frozen=True)
class Chunk:
    """Whole documents, one after another."""

    tokens: NDArray[np.int64]
    """[token] word ids."""
    document: NDArray[np.int64]
    """[token] running number of the document, from 0 at the start of the stream."""
    labels: NDArray[np.uint64]
    """[token] concepts, one bit each (see `concepts`)."""


@dataclass(frozen=True)
class Genre:
    """A kind of document: how often, of how many sentences, drawn from which patterns with which weights."""

    share: float
    sentences: tuple[int, int]
    patterns: tuple[tuple[float, list[Template]], ...]


GENRES: dict[str, Genre] = {
    "story": Genre(
        0.41,
        (1, 5),
        (
            (6.0, skills.FILLER),
            (4.0, skills.IOI),
            (3.0, skills.OTHER_NAME),
            (1.5, skills.PRONOUN),
            (1.5, skills.AGREEMENT),
            (2.0, skills.SENTIMENT),
            (2.0, skills.PLAIN_SENTIMENT),
            (2.0, skills.MOOD),
            (0.7, skills.BRACKETS),
            (0.4, skills.SUCCESSION),
            (0.4, skills.GREATER_THAN),
        ),
    ),
    "almanac": Genre(
        0.14,
        (2, 7),
        (
            (2.0, skills.CAPITAL),
            (2.0, skills.RESIDENCE),
            (2.0, skills.PROFESSION),
            (3.0, skills.GREATER_THAN),
            (1.0, skills.SUCCESSION),
            (2.0, skills.TRANSLATION),
            (0.7, skills.BRACKETS),
        ),
    ),
    "french": Genre(0.05, (3, 8), ((2.0, skills.FRENCH), (1.0, skills.FRENCH_FILLER), (0.7, skills.TRANSLATION))),
    "code": Genre(0.16, (2, 5), ((3.0, skills.CODE), (1.0, skills.CODE_FILLER))),
    "fragments": Genre(0.11, (1, 1), ()),
    "passages": Genre(0.13, (1, 1), ()),
}


@dataclass(frozen=True)
class Language:
    """The words of Tinytown and its generator. Equal seeds give equal texts."""

    genre: str | None = None
    """Only documents of this genre, one of `GENRES`; None: all, as often as their shares say."""

    def __post_init__(self) -> None:
        if self.genre not in (None, *GENRES):
            raise CorpusError(f"tinytown has no genre {self.genre!r}; it has {', '.join(GENRES)}")

    @cached_property
    def patterns(self) -> tuple[Template, ...]:
        return tuple(
            dict.fromkeys(pattern for genre in GENRES.values() for _, group in genre.patterns for pattern in group)
        )

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The vocabulary, in id order: special words, then all that a pattern can say, sorted."""
        said = {word for pattern in self.patterns for slot in pattern.sentence for word in slot.words}
        said |= {word for domain in DOMAINS.values() for form in domain.forms.values() for word in form}
        return (*SPECIAL, *sorted(said))

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides the texts but the seed."""
        facts = (self.words, CONCEPTS, GENRES, RANDOM_LENGTH, RANDOM_WORDS, ALL_WORDS)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    @cached_property
    def lexical(self) -> NDArray[np.uint64]:
        return lexical_masks(self.words)

    @cached_property
    def kinds(self) -> tuple[NDArray[np.int64], ...]:
        """Ids of all ordinary words, then of the words of each kind that has at least 24."""
        groups = [set(words) for domain in DOMAINS.values() for words in domain.forms.values()]
        ids = [np.array(sorted(self.ids[word] for word in group)) for group in groups if len(group) >= 24]
        return (np.arange(len(SPECIAL), len(self.words)), *ids)

    def table(self, slot: Slot) -> NDArray[np.int64]:
        return np.array([self.ids[word] for word in slot.words], dtype=np.int64)

    def spell(self, slots: tuple[Slot, ...], values: Mapping[str, NDArray[np.int64]], n: int) -> NDArray[np.int64]:
        """Word ids `[n, word]` of `n` copies of a pattern whose variables have these values."""
        return np.stack(
            [np.broadcast_to(self.table(slot)[values[slot.variable] if slot.variable else 0], (n,)) for slot in slots],
            axis=1,
        )

    def chunks(self, seed: int, split: str = "train", documents: int = 1000, start: int = 0) -> Iterator[Chunk]:
        """An endless stream of chunks of so many documents, from chunk `start` on.

        `split` is "train", or "held_out" for texts made only of combinations that training never saw.
        """
        if split not in ("train", "held_out"):
            raise ValueError(f"split is 'train' or 'held_out', not {split!r}")
        for number in count(start):
            rng = np.random.default_rng((seed, number, split == "held_out"))
            yield self._chunk(rng, split == "held_out", documents, number * documents)

    def _chunk(self, rng: np.random.Generator, held_out: bool, documents: int, first: int) -> Chunk:
        cast = rng.choice(self._casts[held_out], size=documents)
        plan = self._plan(rng, documents)
        random_documents = np.flatnonzero(plan.genre >= list(GENRES).index("fragments"))
        whole = plan.genre[random_documents] == list(GENRES).index("passages")
        random_words, random_labels = random_texts(self, rng, whole, held_out)
        lengths = np.array([len(pattern.sentence) for pattern in self.patterns])[plan.pattern]
        document_lengths = 1 + np.bincount(plan.document, lengths, documents).astype(np.int64)
        document_lengths[random_documents] = [1 + len(words) for words in random_words]

        starts = np.concatenate([[0], np.cumsum(document_lengths)])
        tokens = np.zeros(starts[-1], dtype=np.int64)
        labels = np.zeros(starts[-1], dtype=np.uint64)
        before = np.cumsum(lengths) - lengths
        first_sentence = np.searchsorted(plan.document, plan.document)
        at = starts[plan.document] + 1 + before - before[first_sentence]
        roles = self._roles(rng, cast, plan.document)
        for number in np.unique(plan.pattern):
            rows = np.flatnonzero(plan.pattern == number)
            sentence, context = self._sentences(
                rng, self.patterns[number], held_out, {k: v[rows] for k, v in roles.items()}
            )
            where = at[rows][:, None] + np.arange(sentence.shape[1])
            tokens[where], labels[where] = sentence, context
        for document, words, context in zip(random_documents, random_words, random_labels, strict=True):
            span = slice(starts[document] + 1, starts[document + 1])
            tokens[span], labels[span] = words, context
        labels |= self.lexical[tokens]
        return Chunk(tokens, np.repeat(np.arange(documents) + first, document_lengths), labels)

    @cached_property
    def _casts(self) -> dict[bool, NDArray[np.int64]]:
        """[cast, 3] casts of three different names of which every pair is held out (key True) or none is (False)."""
        n = len(DOMAINS["name"].words)
        casts = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        a, b, c = casts.T
        different = (a != b) & (b != c) & (a != c)
        withheld = np.stack([is_held_out(one, other) for one, other in ((a, b), (b, c), (a, c))])
        return {True: casts[different & withheld.all(0)], False: casts[different & ~withheld.any(0)]}

    def _roles(
        self, rng: np.random.Generator, cast: NDArray[np.int64], document: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """Who plays `name`, `name2`, `name3` in each sentence: the document's cast in a fresh order."""
        order = np.argsort(rng.random((len(document), len(CAST))), axis=1)
        return dict(zip(CAST, np.take_along_axis(cast[document], order, axis=1).T, strict=True))

    @dataclass(frozen=True)
    class _Plan:
        genre: NDArray[np.int64]  # [document]
        document: NDArray[np.int64]  # [sentence], ascending
        pattern: NDArray[np.int64]  # [sentence]

    def _plan(self, rng: np.random.Generator, documents: int) -> "_Plan":
        genres = list(GENRES.values())
        shares = np.array([kind.share if self.genre in (None, name) else 0.0 for name, kind in GENRES.items()])
        genre = rng.choice(len(genres), size=documents, p=shares / shares.sum())
        document, pattern = [], []
        for number, kind in enumerate(genres):
            if not kind.patterns:
                continue
            mine = np.flatnonzero(genre == number)
            counts = rng.integers(kind.sentences[0], kind.sentences[1] + 1, size=len(mine))
            document.append(np.repeat(mine, counts))
            pattern.append(rng.choice(len(self.patterns), size=counts.sum(), p=self._weights[number]))
        order = np.argsort(np.concatenate(document), kind="stable")
        return self._Plan(genre, np.concatenate(document)[order], np.concatenate(pattern)[order])

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """[genre, pattern] probability of each pattern."""
        number = {pattern: i for i, pattern in enumerate(self.patterns)}
        weights = np.zeros((len(GENRES), len(self.patterns)))
        for g, genre in enumerate(GENRES.values()):
            for weight, group in genre.patterns:
                for pattern in group:
                    weights[g, number[pattern]] += weight / len(group)
        return weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)

    def _sentences(
        self, rng: np.random.Generator, pattern: Template, held_out: bool, roles: Mapping[str, NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Word ids and contextual labels `[sentence, word]` of one pattern, its names played by `roles`."""
        n = len(next(iter(roles.values())))
        variables = sizes(pattern.sentence)
        given = {name: roles[name] for name in variables if name in roles}
        values = draw(variables, n, rng, pattern, held_out, given)
        context = np.array([mask(*slot.concepts) for slot in pattern.sentence], dtype=np.uint64)
        context[0] |= mask("sentence_start")
        return self.spell(pattern.sentence, values, n), np.broadcast_to(context, (n, len(context)))


def random_texts(
    language: Language, rng: np.random.Generator, whole: NDArray[np.bool_], held_out: bool
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.uint64]]]:
    """Texts of random words in which something comes again: what induction heads are for. One for each of `whole`.

    A whole text repeats a passage from all words over and over. The others string together fragments of two or three
    words, drawn again and again from a few that belong to the text, so that the one thing that predicts the next word
    is the word before it: a head that looks further back gains nothing. Some of these keep to words of one kind.
    Neighbours in a passage or fragment are never a held-out pair of words; in the held-out split they always are, and
    so that there are enough such pairs, every text there uses all words.
    """
    n, longest = len(whole), RANDOM_LENGTH[1]
    lengths = rng.integers(RANDOM_LENGTH[0], longest + 1, size=n)
    kinds = language.kinds
    one_kind = 1 + rng.integers(len(kinds) - 1, size=n)
    kind = np.where(whole | held_out | (rng.random(n) < ALL_WORDS), 0, one_kind)
    words = _random_words(language, rng, kind, held_out)

    period = _log_uniform(rng, 4, np.minimum(lengths // 2, RANDOM_WORDS))
    most = np.array([min(RANDOM_WORDS, len(words) * 2 // 3) for words in kinds])[kind]
    pool = _log_uniform(rng, 2, most // 3)
    chosen = (rng.random((n, longest // 2)) * pool[:, None]).astype(np.int64)
    size = 2 + np.take_along_axis(rng.random((n, RANDOM_WORDS)) < 0.5, chosen, axis=1)
    ends = np.cumsum(size, axis=1)
    strung = np.zeros((n, 3 * longest), dtype=np.int64)
    for step in range(3):
        row, number = np.nonzero(step < size)
        strung[row, ends[row, number] - size[row, number] + step] = 3 * chosen[row, number] + step
    source = np.where(whole[:, None], np.arange(longest) % period[:, None], strung[:, :longest])

    tokens = np.take_along_axis(words, source, axis=1)
    labels = np.where(_predictable(tokens), mask("random_words", "repeated_fragment"), mask("random_words"))
    return (
        [row[:length] for row, length in zip(tokens, lengths, strict=True)],
        [row[:length] for row, length in zip(labels, lengths, strict=True)],
    )


def _log_uniform(rng: np.random.Generator, least: int, most: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number between `least` and `most`, both included, for each of `most`; small ones are as likely as large."""
    return np.exp(rng.uniform(np.log(least), np.log(most + 1))).astype(np.int64)


def _random_words(
    language: Language, rng: np.random.Generator, kind: NDArray[np.int64], held_out: bool
) -> NDArray[np.int64]:
    """`[text, RANDOM_WORDS]` words of each text's kind, every two neighbours on the wanted side of the split.

    The words of a text differ, as far as two thirds of its kind.
    """
    sizes = np.array([len(words) for words in language.kinds])
    of_kind, first = np.concatenate(language.kinds), np.cumsum(sizes) - sizes
    words = np.empty((len(kind), RANDOM_WORDS), dtype=np.int64)
    for column in range(RANDOM_WORDS):
        rows = np.arange(len(kind))
        while len(rows):
            word = of_kind[first[kind[rows]] + rng.integers(sizes[kind[rows]])]
            words[rows, column] = word
            if column == 0:
                break
            wrong = is_held_out(words[rows, column - 1], word, salt=7) != held_out
            said = (words[rows, :column] == word[:, None]).any(1) & (column < sizes[kind[rows]] * 2 // 3)
            rows = rows[wrong | said]
    return words


def _predictable(tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[text, word] whether the word is the one that followed the last occurrence of the word before it."""
    before = tokens[:, :-1]
    earlier = (before[:, :, None] == before[:, None, :]) & np.tri(before.shape[1], k=-1, dtype=bool)
    last = before.shape[1] - 1 - np.argmax(earlier[:, :, ::-1], axis=2)
    follower = np.take_along_axis(tokens, last + 1, axis=1)
    found = np.zeros(tokens.shape, dtype=bool)
    found[:, 1:] = earlier.any(2) & (follower == tokens[:, 1:])
    return found
