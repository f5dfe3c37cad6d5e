"""English words for the tasks, and which of them a tokenizer has as single tokens."""

from collections.abc import Iterable, Sequence

from workbench.errors import PromptError
from workbench.model import HookedModel

WOMEN = (
    "Mary Anna Emma Alice Clara Grace Lucy Sarah Julia Laura Helen Diana Rose Ruth Eva Jane Kate Lily Maya Nina "
    "Rita Tina Amy Beth Susan Linda Karen Lisa Nancy Betty Jessica Amanda Rachel Kelly Jennifer Elizabeth Michelle "
    "Barbara Christine Caroline Heather Angela Melissa Rebecca Stephanie Victoria Samantha Hannah Claire Ellen Andrea"
).split()
MEN = (
    "John Paul Peter Mark Luke Tom James David Henry George Frank Simon Oscar Victor Adam Ben Carl Dan Eric Fred Gary "
    "Jack Kevin Leo Max Neil Philip Robert Sam William Thomas Richard Daniel Matthew Andrew Steven Brian Edward Jason "
    "Ryan Jacob Nicholas Jonathan Stephen Scott Gregory Joshua Patrick Dennis Aaron Nathan Douglas Kyle Roger Keith"
).split()
PLACES = (
    "store garden school office station library museum restaurant hospital market hotel church park beach bank house "
    "farm factory castle bridge river theater bar cafe gym airport"
).split()
THINGS = (
    "book ball ring key letter camera watch drink flower basket bottle box phone card ticket knife toy bag hat coat "
    "picture guitar pen map lamp computer snack bone"
).split()
NOUNS = (
    "boy/boys girl/girls king/kings queen/queens doctor/doctors teacher/teachers student/students player/players "
    "driver/drivers writer/writers singer/singers lawyer/lawyers farmer/farmers soldier/soldiers guard/guards dog/dogs "
    "cat/cats horse/horses bird/birds tree/trees car/cars table/tables house/houses picture/pictures book/books "
    "bottle/bottles tower/towers ship/ships brother/brothers sister/sisters friend/friends author/authors"
).split()
"""Singular and plural."""
CAPITALS = (
    "France/Paris Spain/Madrid Italy/Rome Germany/Berlin Poland/Warsaw Austria/Vienna Greece/Athens Turkey/Ankara "
    "Norway/Oslo Sweden/Stockholm Finland/Helsinki Denmark/Copenhagen Ireland/Dublin Portugal/Lisbon Hungary/Budapest "
    "Romania/Bucharest Russia/Moscow China/Beijing Japan/Tokyo Egypt/Cairo Cuba/Havana Canada/Ottawa Iran/Tehran "
    "Iraq/Baghdad Thailand/Bangkok Ukraine/Kiev Belgium/Brussels Syria/Damascus Lebanon/Beirut Afghanistan/Kabul "
    "Taiwan/Taipei Kenya/Nairobi Libya/Tripoli Vietnam/Hanoi Pakistan/Islamabad Chile/Santiago Peru/Lima"
).split()
"""Country and capital."""
EVENTS = (
    "war siege voyage journey drought famine strike trial festival campaign expedition rebellion reign project dispute "
    "conflict crisis tour march revolution exile friendship marriage partnership feud epidemic plague storm "
    "occupation boycott search mission debate flood fight peace plan program struggle"
).split()
"""What can last from one year to another."""
CODE_WORDS = (
    "file size name order value line user date type list image port page group text count state model target "
    "number option level action error result source event field point color width height index key block table server"
).split()
"""Words that arguments of functions are called."""


def single_tokens(model: HookedModel, words: Iterable[str]) -> dict[str, int]:
    """Those of the words that are one token in the middle of a sentence, and that token.

    Raises `PromptError` for a model without a tokenizer.
    """
    words = list(dict.fromkeys(words))
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise PromptError(f"{model.info.name} has no tokenizer, so it cannot be asked in words")
    before, *rows = tokenizer(["a", *(f"a {word}" for word in words)], add_special_tokens=False)["input_ids"]
    return {
        word: row[-1]
        for word, row in zip(words, rows, strict=True)
        if row[:-1] == before and row[-1] != tokenizer.unk_token_id
    }


def need(model: HookedModel, words: Sequence[str], what: str, at_least: int) -> list[str]:
    """The words that are single tokens. Raises `PromptError` if they are fewer than `at_least`."""
    found = list(single_tokens(model, words))
    if len(found) < at_least:
        count = f"{len(found)} of {len(words)} {what}"
        raise PromptError(f"{model.info.name} has {count} as single tokens; this task needs at least {at_least}")
    return found


def need_pairs(model: HookedModel, words: Sequence[str], what: str, at_least: int) -> list[tuple[str, str]]:
    """Of `one/other …`, the pairs of which both are single tokens. Raises `PromptError` as `need` does."""
    pairs = [tuple(word.split("/")) for word in words]
    known = single_tokens(model, [word for pair in pairs for word in pair])
    found = [(one, other) for one, other in pairs if one in known and other in known]
    if len(found) < at_least:
        count = f"{len(found)} of {len(pairs)} {what}"
        raise PromptError(f"{model.info.name} has {count} as single tokens; this task needs at least {at_least}")
    return found
