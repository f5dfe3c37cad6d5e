"""The concepts of Tinytown: yes/no properties of a token, known from the generator.

A lexical concept is a property of the word alone, a contextual one of its place in the text. A token's labels are one
64-bit integer; bit i stands for `CONCEPTS[i]`.
"""

import numpy as np
from numpy.typing import NDArray

from workbench.tinytown.lexicon import DOMAINS, MEN, WOMEN

_PRONOUNS = {"female_pronoun": "she She her", "male_pronoun": "he He him his"}

LEXICAL: dict[str, frozenset[str]] = {
    "female_name": frozenset(WOMEN),
    "male_name": frozenset(MEN),
    **{name: frozenset(words.split()) for name, words in _PRONOUNS.items()},
    **{
        domain: frozenset(DOMAINS[domain].words)
        for domain in (
            "country", "surname", "place", "food", "colour", "size", "weather", "job", "event", "day", "month",
            "letter", "glad", "good", "bad", "person", "thing", "animal",
        )
    },
    "city": frozenset(DOMAINS["city"].words),
    "number_word": frozenset(word for words in DOMAINS["number"].forms.values() for word in words),
    "numeral": frozenset(DOMAINS["year"].words),
    "century": frozenset(DOMAINS["century"].words),
    "sad": frozenset(DOMAINS["glad"].forms["sad"]),
    "plural_noun": frozenset(DOMAINS["noun"].forms["plural"]),
    "singular_verb": frozenset(DOMAINS["verb"].words),
    "plural_verb": frozenset(DOMAINS["verb"].forms["plural"]),
    "past_verb": frozenset(DOMAINS["went"].words + DOMAINS["saw"].words + DOMAINS["handed"].words),
    "french_masculine": frozenset(DOMAINS["masculine"].words + DOMAINS["grand"].words),
    "french_feminine": frozenset(DOMAINS["feminine"].words + DOMAINS["grand"].forms["feminine"]),
    "code_variable": frozenset(DOMAINS["variable"].words),
    "code_function": frozenset(DOMAINS["function"].words),
    "opening_bracket": frozenset(DOMAINS["bracket"].words),
    "closing_bracket": frozenset(DOMAINS["bracket"].forms["close"]),
    "sentence_end": frozenset(".?!"),
}  # fmt: skip

CONTEXTUAL: dict[str, str] = {
    "sentence_start": "the first word of a sentence",
    "inside_quotes": "between quotation marks",
    "inside_brackets": "between an opening and its closing bracket",
    "repeated_name": "the subject named a second time, as in IOI",
    "indirect_object": "the receiver of a thing, the answer in IOI",
    "plural_subject": "a plural noun that its verb agrees with",
    "attractor": "a noun between a subject and its verb",
    "negated": "a judgement turned round by not or never",
    "stored_fact": "the answer to a question of fact",
    "translation": "a French word given for an English one",
    "start_year": "the last two digits of the year when something began",
    "end_year": "the last two digits of the year when something ended",
    "next_in_order": "a day, month, number or letter that follows from those before it",
    "looked_up_value": "the value of a variable set earlier",
    "french": "in a French sentence",
    "code": "in a line of code",
    "random_words": "in a text of random words",
    "repeated_fragment": "a random word that copies what followed its last occurrence",
}

CONCEPTS: tuple[str, ...] = (*LEXICAL, *CONTEXTUAL)
_BIT = {concept: bit for bit, concept in enumerate(CONCEPTS)}


def mask(*concepts: str) -> np.uint64:
    """The labels of a token that has exactly these concepts."""
    return np.uint64(sum(1 << _BIT[concept] for concept in set(concepts)))


def lexical_masks(words: tuple[str, ...]) -> NDArray[np.uint64]:
    """The lexical labels of each word."""
    return np.array([mask(*(name for name, group in LEXICAL.items() if word in group)) for word in words], np.uint64)


def unpack(labels: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Labels `[...]` as booleans `[..., concept]`."""
    return (labels[..., None] >> np.arange(len(CONCEPTS), dtype=np.uint64)) & np.uint64(1) != 0
