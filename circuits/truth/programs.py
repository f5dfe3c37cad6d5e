"""The programs that are compiled for ground truth. Each says in words and in plain Python what it computes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

from circuits.truth.compiler import AnyOf, Head, Layer, Lookup, Nearest, Program, Score, Variable

BEGIN, END = "^", "]"


def reverse(items: Sequence[str] = "abc", longest: int = 4) -> Program:
    """Find the end of a list, count back from there, and say what stands there."""
    token = Variable("token", (*items, END))
    position = Variable("position", tuple(range(2 * longest)))
    end, target = Variable("end", position.labels), Variable("target", position.labels)
    said = Variable("said", token.labels)

    def mirrored(end: int, here: int) -> int | None:
        return 2 * end - 1 - here if end <= here < 2 * end else None

    def answer(tokens: tuple[str, ...]) -> dict[str, float]:
        place = mirrored(tokens.index(END), len(tokens) - 1)
        return {tokens[place]: 1.0}

    def inputs() -> Iterator[tuple[str, ...]]:
        for length in range(1, longest + 1):
            for said_so_far in range(length):
                for words in product(items, repeat=length + said_so_far):
                    yield (*words[:length], END, *words[length:])

    return Program(
        "reverse",
        f"1 to {longest} items ({', '.join(items)}), the end of the list ({END}), and fewer items than before it",
        "the next item of the list read backwards: the first time its last one, then the one before, …",
        token,
        position,
        (
            Layer(
                (Head(end, position, (Score(None, token, lambda key: key == END),)),),
                (Lookup(target, (end, position), mirrored),),
            ),
            Layer((Head(said, token, (Score(target, position, lambda query, key: query == key),)),)),
        ),
        said,
        answer,
        inputs,
    )


def fraction(words: Sequence[str] = "wxyz", longest: int = 5) -> Program:
    """Mark every x, and take the mean of the marks."""
    token = Variable("token", tuple(words))
    marked, share = Variable("marked", ("x",)), Variable("share", ("x",))
    return Program(
        "fraction",
        f"1 to {longest} tokens ({', '.join(words)})",
        "the logit of x is the share of the tokens so far, the last included, that are x",
        token,
        Variable("position", tuple(range(longest))),
        (
            Layer(mlp=(Lookup(marked, (token,), lambda word: word if word == "x" else None),)),
            Layer((Head(share, marked),)),
        ),
        share,
        lambda tokens: {"x": tokens.count("x") / len(tokens)},
        lambda: (tokens for length in range(1, longest + 1) for tokens in product(words, repeat=length)),
    )


def next_in_order(items: Sequence[str] = "abcd", longest: int = 5) -> Program:
    """One step of a selection sort."""
    token = Variable("token", (BEGIN, *items, END))
    said = Variable("said", (*items, END))
    rank = {END: 0} | {item: number for number, item in enumerate(items, start=1)}

    def wanted(query: str, key: str) -> int:
        """The smaller a larger item, the better; if there is none, the beginning."""
        if key in items and query in rank and rank[key] > rank[query]:
            return 1 + len(items) - rank[key] + 1
        return 1 if key == BEGIN else 0

    def answer(tokens: tuple[str, ...]) -> dict[str, float]:
        larger = [item for item in tokens if item in items and rank[item] > rank[tokens[-1]]]
        return {min(larger, key=rank.__getitem__, default=END): 1.0}

    return Program(
        "next_in_order",
        f"the beginning ({BEGIN}) and 1 to {longest} tokens ({', '.join((*items, END))})",
        f"the smallest item so far that is larger than the last token ({END} is smaller than all), or {END} if none is",
        token,
        Variable("position", tuple(range(longest + 1))),
        (Layer((Head(said, token, (Score(token, token, wanted),), lambda word: word if word in items else END),)),),
        said,
        answer,
        lambda: (
            (BEGIN, *tokens) for length in range(1, longest + 1) for tokens in product((*items, END), repeat=length)
        ),
    )


def most_frequent(items: Sequence[str] = "abc", longest: int = 5) -> Program:
    """Count each item among the ones so far, and go to where the count is highest."""
    token = Variable("token", (BEGIN, *items))
    share, said = Variable("share", (BEGIN,)), Variable("said", tuple(items))
    count = Variable("count", tuple(range(longest + 1)))
    weight = len(items) + 1

    def same_or_begin(query: str, key: str) -> int:
        return int(key in (query, BEGIN))

    def answer(tokens: tuple[str, ...]) -> dict[str, float]:
        counts = Counter(tokens[1:])
        return {max(counts, key=lambda item: (counts[item], items.index(item))): 1.0}

    return Program(
        "most_frequent",
        f"the beginning ({BEGIN}) and 1 to {longest} items ({', '.join(items)})",
        "the item that came most often; of several, the last of the alphabet",
        token,
        Variable("position", tuple(range(longest + 1))),
        (
            Layer(
                (
                    Head(
                        share,
                        token,
                        (Score(token, token, same_or_begin),),
                        lambda word: word if word == BEGIN else None,
                    ),
                ),
                (Nearest(count, share, {number: 1 / (1 + number) for number in count.labels}),),
            ),
            Layer(
                (
                    Head(
                        said,
                        token,
                        (
                            Score(None, count, lambda number: weight * number),
                            Score(None, token, lambda word: items.index(word) if word in items else 0),
                        ),
                        lambda word: word if word in items else None,
                    ),
                )
            ),
        ),
        said,
        answer,
        lambda: ((BEGIN, *tokens) for length in range(1, longest + 1) for tokens in product(items, repeat=length)),
    )


def or_gate() -> Program:
    """Two heads, each of which is enough (the gate of Conmy et al. 2023, out = 1 - ReLU(1 - sum), on real inputs)."""
    token = Variable("token", ("0", "1", "="))
    position = Variable("position", (0, 1, 2))
    sides, either = (Variable("left", ("1",)), Variable("right", ("1",))), Variable("or", ("1",))

    def side(number: int) -> Head:
        return Head(
            sides[number],
            token,
            (Score(None, position, lambda place: int(place == number)),),
            lambda word: word if word == "1" else None,
        )

    return Program(
        "or_gate",
        "two bits and =",
        "the logit of 1 is one if either bit is 1, otherwise zero",
        token,
        position,
        (Layer((side(0), side(1)), (AnyOf(either, sides),)),),
        either,
        lambda tokens: {"1": float("1" in tokens)},
        lambda: ((*bits, "=") for bits in product("01", repeat=2)),
    )
