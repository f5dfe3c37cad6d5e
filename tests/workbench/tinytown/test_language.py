"""The generator: seeded, labelled as its definitions say, and true to the split."""

from itertools import islice, pairwise

import numpy as np
import pytest

from workbench.tinytown.concepts import CONCEPTS, CONTEXTUAL, LEXICAL, unpack
from workbench.tinytown.language import GENRES, Language
from workbench.tinytown.lexicon import DOMAINS
from workbench.tinytown.template import Template, draw, is_held_out, parse, sizes


@pytest.fixture(scope="module")
def language():
    return Language()


@pytest.fixture(scope="module")
def chunk(language):
    return next(language.chunks(seed=0))


def texts(language, chunk):
    cuts = np.flatnonzero(np.diff(chunk.document)) + 1
    return [" ".join(language.words[word] for word in words) for words in np.split(chunk.tokens, cuts)]


def labelled(language, chunk, concept):
    """Words labelled with a concept, each with the word before it."""
    at = np.flatnonzero(unpack(chunk.labels)[:, CONCEPTS.index(concept)])
    return [(language.words[chunk.tokens[i - 1]], language.words[chunk.tokens[i]]) for i in at]


def test_sizes_are_as_documented(language):
    assert 1000 <= len(language.words) <= 1500
    assert 40 <= len(CONCEPTS) <= 64
    assert len(set(CONCEPTS)) == len(CONCEPTS)


def test_equal_seeds_give_equal_texts_and_a_later_start_the_same_chunk(language, chunk):
    again, following = islice(Language().chunks(seed=0), 2)
    assert np.array_equal(again.tokens, chunk.tokens)
    assert np.array_equal(again.labels, chunk.labels)
    skipped = next(Language().chunks(seed=0, start=1))
    assert np.array_equal(skipped.tokens, following.tokens)
    assert np.array_equal(skipped.document, following.document)
    assert not np.array_equal(next(Language().chunks(seed=1)).tokens[:500], chunk.tokens[:500])


def test_documents_begin_with_bos_and_hold_no_other(language, chunk):
    starts = np.flatnonzero(np.diff(chunk.document, prepend=-1))
    assert np.array_equal(starts, np.flatnonzero(chunk.tokens == 0))
    assert not (chunk.tokens == language.ids["<unk>"]).any()
    assert np.mean(np.bincount(chunk.document) <= 128) > 0.98


def test_genres_come_as_often_as_they_should(chunk):
    random_words = unpack(chunk.labels)[:, CONCEPTS.index("random_words")]
    share = len(np.unique(chunk.document[random_words])) / len(np.unique(chunk.document))
    assert share == pytest.approx(GENRES["fragments"].share + GENRES["passages"].share, abs=0.04)


def test_every_concept_occurs_and_none_is_everywhere(language):
    rate = np.mean([unpack(chunk.labels).mean(0) for chunk in islice(language.chunks(seed=2), 3)], axis=0)
    assert dict(zip(CONCEPTS, rate, strict=True)) == {name: pytest.approx(0.2, abs=0.1999) for name in CONCEPTS}


@pytest.mark.parametrize("concept", list(LEXICAL))
def test_lexical_labels_are_word_membership(language, chunk, concept):
    bit = unpack(chunk.labels)[:, CONCEPTS.index(concept)]
    member = np.array([word in LEXICAL[concept] for word in language.words])[chunk.tokens]
    assert np.array_equal(bit, member)


def test_contextual_labels_follow_from_the_text(language, chunk):
    """Each checked by a rule on the words themselves, written without the generator."""
    capitals = dict(zip(DOMAINS["country"].words, DOMAINS["country"].forms["capital"], strict=True))
    answers = {*capitals.values(), *DOMAINS["surname"].forms["home"], *DOMAINS["surname"].forms["job"]}
    assert {word for _, word in labelled(language, chunk, "stored_fact")} <= answers
    assert {before for before, _ in labelled(language, chunk, "negated")} == {"not", "never"}
    assert {word for _, word in labelled(language, chunk, "plural_subject")} <= set(DOMAINS["noun"].forms["plural"])
    assert all(before == "==" for before, _ in labelled(language, chunk, "looked_up_value"))
    assert {word for _, word in labelled(language, chunk, "repeated_name")} <= set(DOMAINS["name"].words)
    assert set(CONTEXTUAL) <= set(CONCEPTS)


def test_brackets_enclose_what_is_labelled_inside(language, chunk):
    inside = unpack(chunk.labels)[:, CONCEPTS.index("inside_brackets")]
    words = [language.words[token] for token in chunk.tokens]
    closer = dict(zip(DOMAINS["bracket"].words, DOMAINS["bracket"].forms["close"], strict=True))
    begins = np.flatnonzero(inside & ~np.roll(inside, 1))
    ends = np.flatnonzero(inside & ~np.roll(inside, -1))
    assert len(begins) > 50
    for begin, end in zip(begins, ends, strict=True):
        assert words[end + 1] == closer[words[begin - 1]]


def test_repeated_fragments_are_what_induction_predicts(language, chunk):
    """The label against a direct search: the word before came earlier in the text, last followed by this word."""
    bits = unpack(chunk.labels)
    soup, repeat = (bits[:, CONCEPTS.index(name)] for name in ("random_words", "repeated_fragment"))
    document = next(d for d in np.unique(chunk.document) if soup[chunk.document == d].any())
    tokens = chunk.tokens[chunk.document == document].tolist()[1:]
    expected = [False]
    for i in range(1, len(tokens)):
        earlier = [j for j in range(i - 1) if tokens[j] == tokens[i - 1]]
        expected.append(bool(earlier) and tokens[earlier[-1] + 1] == tokens[i])
    assert repeat[chunk.document == document][1:].tolist() == expected


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_passage_of_different_words_comes_again_and_again(split):
    """Its neighbours are all held out or none is."""
    chunk = next(Language("passages").chunks(seed=0, split=split, documents=50))
    for document in range(50):
        text = chunk.tokens[chunk.document == document][1:]
        period = 1 + text[1:].tolist().index(text[0])
        assert len(set(text[:period])) == period
        assert len(text) >= 2 * period
        assert np.array_equal(text[period:], text[:-period])
        assert (is_held_out(text[: period - 1], text[1:period], salt=7) == (split == "held_out")).all()


def test_fragments_are_strung_together_anew_each_time():
    """After most words of a text one word follows always: the next of the fragment. After others many do."""
    chunk = next(Language("fragments").chunks(seed=0, documents=200))
    ways = []
    for document in range(200):
        text = chunk.tokens[chunk.document == document][1:].tolist()
        followers = [{b for a, b in pairwise(text) if a == word} for word in text[:-1]]
        ways += [len(follower) for follower in followers]
    assert 0.4 < np.mean(np.array(ways) == 1) < 0.8


def test_training_never_brings_a_held_out_pair_of_names_together(language):
    number = {language.ids[name]: i for i, name in enumerate(DOMAINS["name"].words)}
    for split in ("train", "held_out"):
        chunk = next(language.chunks(seed=3, split=split))
        story = ~unpack(chunk.labels)[:, [CONCEPTS.index(c) for c in ("random_words", "french")]].any(1)
        pairs = set()
        for document in range(200):
            tokens = chunk.tokens[(chunk.document == document) & story]
            names = sorted({number[token] for token in tokens.tolist() if token in number})
            pairs |= {(a, b) for a in names for b in names if a < b}
        assert len(pairs) > 50
        held_out = is_held_out(*np.array(sorted(pairs)).T)
        assert (held_out == (split == "held_out")).all()


def test_an_unknown_split_is_refused(language):
    with pytest.raises(ValueError, match="'train' or 'held_out'"):
        next(language.chunks(0, split="test"))


def test_a_pattern_is_parsed_and_filled_as_its_docstring_says():
    pattern = Template("<french> {name} </french> {went|ran} to^negated => {name2} .", key=("name", "name2"))
    assert [slot.concepts for slot in pattern.sentence] == [("french",), (), ("negated",), (), ()]
    assert [slot.words for slot in pattern.prompt[1:]] == [("went", "ran"), ("to",)]
    values = draw(sizes(pattern.sentence), 500, np.random.default_rng(0), pattern, held_out=True)
    assert (values["name"] != values["name2"]).all()
    assert is_held_out(values["name"], values["name2"]).all()
    with pytest.raises(ValueError, match="unclosed"):
        parse("<french> le chien")


def test_a_tenth_of_the_pairs_is_held_out_in_either_order():
    one, other = np.meshgrid(np.arange(64), np.arange(64))
    assert np.array_equal(is_held_out(one, other), is_held_out(other, one))
    assert is_held_out(one, other).mean() == pytest.approx(0.1, abs=0.03)
