"""Packing puts every token into a context once, and cuts only what does not fit."""

import numpy as np
import pytest

from workbench.packing import Contexts, Documents, pack

BOS, PAD = 1, 0


def documents(lengths: list[int], bos: bool = True) -> Documents:
    """Documents whose tokens are 1000, 1001, …, all different, after a BOS each."""
    tokens = np.arange(1000, 1000 + sum(lengths), dtype=np.int32)
    if bos:
        tokens[(np.cumsum(lengths) - lengths)[np.array(lengths) > 0]] = BOS
    numbers = 7 + np.arange(len(lengths))
    return Documents(tokens, np.array(lengths), numbers, tokens.astype(np.uint64) * 3)


def packed(source: Documents, context: int, bos: int | None = BOS, seed: int = 0) -> Contexts:
    return pack(source, context=context, bos=bos, pad=PAD, rng=np.random.default_rng(seed))


def segments(contexts: Contexts) -> list[tuple[int, list[int]]]:
    """The document number and the tokens of each run of one document in one context."""
    found = []
    for tokens, owners in zip(contexts.tokens, contexts.documents, strict=True):
        for part in np.split(np.arange(len(tokens)), np.flatnonzero(np.diff(owners)) + 1):
            if owners[part[0]] >= 0:
                found.append((int(owners[part[0]]), tokens[part].tolist()))
    return found


RANDOM = np.random.default_rng(5).integers(0, 40, 300).tolist()


@pytest.mark.parametrize("lengths", [[3], [16], [17], [31], [32], [5, 0, 60, 16, 1], RANDOM], ids=str)
@pytest.mark.parametrize("bos", [BOS, None])
def test_every_token_is_packed_once_and_in_order(lengths: list[int], bos: int | None) -> None:
    source = documents(lengths, bos=bos is not None)
    contexts = packed(source, context=16, bos=bos)
    parts: dict[int, list[list[int]]] = {}
    for owner, tokens in segments(contexts):
        parts.setdefault(owner, []).append(tokens)
    starts = np.cumsum(lengths) - lengths
    for number, start, length in zip(source.numbers.tolist(), starts, lengths, strict=True):
        pieces = sorted(parts.pop(number, []), key=lambda piece: piece[-1])
        if bos is not None:
            assert all(piece[0] == BOS for piece in pieces)
            pieces = [piece[1:] for piece in pieces]
            start, length = start + 1, max(length - 1, 0)
        assert [token for piece in pieces for token in piece] == source.tokens[start : start + length].tolist()
    assert not parts


def test_only_a_document_longer_than_the_context_is_cut() -> None:
    contexts = packed(documents([16, 9, 7, 40, 3]), context=16)
    pieces = {owner: sorted(len(tokens) for o, tokens in segments(contexts) if o == owner) for owner in range(7, 12)}
    assert pieces == {7: [16], 8: [9], 9: [7], 10: [10, 16, 16], 11: [3]}  # 40 = 16 + 15 + 9, and a BOS before the two


def test_best_fit_leaves_no_padding_where_none_is_needed() -> None:
    contexts = packed(documents([10, 6, 12, 4, 16, 8, 8, 9, 7]), context=16)
    assert contexts.tokens.shape == (5, 16)
    assert (contexts.documents >= 0).all()


def test_padding_is_marked_and_labels_follow_their_tokens() -> None:
    contexts = packed(documents(RANDOM), context=16)
    padding = contexts.documents == -1
    assert (contexts.tokens[padding] == PAD).all()
    assert (contexts.label_bits[padding] == 0).all()
    word = contexts.tokens >= 1000
    assert (contexts.label_bits[word] == 3 * contexts.tokens[word]).all()
    assert 0 < padding.mean() < 0.02


def test_length_does_not_tell_the_place_of_a_document() -> None:
    """Best fit goes from long to short; contexts, and the documents in them, must not."""
    contexts = packed(documents(np.random.default_rng(0).integers(2, 30, 4000).tolist()), context=64)
    lengths = {owner: len(tokens) for owner, tokens in segments(contexts)}
    firsts = np.array([lengths[row[0]] for row in contexts.documents.tolist()])
    lasts = np.array([lengths[max(row, key=row.index)] for row in contexts.documents.tolist() if -1 not in row])
    assert abs(firsts.mean() - lasts.mean()) < 1.0
    assert abs(np.corrcoef(firsts, np.arange(len(firsts)))[0, 1]) < 0.1


def test_the_seed_decides_the_order() -> None:
    one, same, other = (packed(documents(RANDOM), context=16, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.tokens, same.tokens)
    assert not np.array_equal(one.tokens, other.tokens)
