"""All tasks by name."""

from functools import cache, partial
from pathlib import Path

from circuits.tasks import english, ioi
from circuits.tasks.docstring import docstring
from circuits.tasks.greater_than import greater_than
from circuits.tasks.induction import induction
from circuits.tasks.task import Task
from workbench.errors import PromptError, SettingError
from workbench.metrics import LOGIT_DIFFERENCE, PROBABILITY_DIFFERENCE, Metric
from workbench.model import HookedModel
from workbench.prompts import PromptPairs, read_pairs
from workbench.tinytown.language import Language
from workbench.tinytown.tasks import TASKS as SKILLS
from workbench.tinytown.tasks import task_prompts

_TINYTOWN = "tinytown."
_FILES = (".csv", ".jsonl")


def _in_tinytown(skill: str, model: HookedModel, n: int, seed: int) -> list[PromptPairs]:
    if not speaks_tinytown(model):
        raise PromptError(
            f"{model.info.name} does not have the vocabulary of Tinytown, which {_TINYTOWN}{skill} is asked in"
        )
    return task_prompts(skill, n, seed=seed, language=_language())


@cache
def _language() -> Language:
    return Language()


def speaks_tinytown(model: HookedModel) -> bool:
    """Whether a model's tokens are the words of Tinytown."""
    return model.tokenizer is not None and model.tokenizer.get_vocab() == _language().ids


_QUESTIONS = {
    "ioi": "two names, one comes again: who is the other? Corrupted: the other one comes again",
    "pronoun": "he or she, for a name. Corrupted: a name of the other gender",
    "agreement": "the verb for a subject, singular or plural. Corrupted: the other number",
    "capital": "the capital of a country. Corrupted: another country",
    "residence": "where somebody lives. Corrupted: somebody else",
    "profession": "what somebody works as. Corrupted: somebody else",
    "greater_than": "a later year of the century. Corrupted: from the year 01",
    "brackets": "the bracket that closes. Corrupted: another bracket was opened",
    "sentiment": "the feeling that a judgement leads to. Corrupted: negated, or no longer negated",
    "succession": "the next day, month, number or letter. Corrupted: another row of them",
    "french_gender": "the French adjective for a noun, masculine or feminine. Corrupted: a noun of the other gender",
    "translation": "the French word for an English one. Corrupted: another word",
    "code_lookup": "the value that a variable was given. Corrupted: another variable is asked for",
    "induction": "what followed this random token before. Corrupted: something else followed",
}
_ENGLISH = (
    Task("ioi", _QUESTIONS["ioi"], ioi.swapped),
    Task("ioi_abc", "two names, one comes again: who is the other? Corrupted: three other names", ioi.abc),
    Task(
        "greater_than",
        "from the year 1732 to the year 17..: later than 32. Corrupted: from 1701",
        greater_than,
        PROBABILITY_DIFFERENCE,
        "a tokenizer that spells years as two tokens of two digits",
    ),
    Task("docstring", "the next argument to be described. Corrupted: it stands in another place", docstring),
    Task("agreement", _QUESTIONS["agreement"], english.agreement),
    Task("pronoun", _QUESTIONS["pronoun"], english.pronoun),
    Task("induction", _QUESTIONS["induction"], induction, needs="a context of 51 tokens"),
    Task("capital", _QUESTIONS["capital"], english.capital),
)
_TOWN = tuple(
    Task(f"{_TINYTOWN}{skill}", _QUESTIONS[skill], partial(_in_tinytown, skill), needs="the vocabulary of Tinytown")
    for skill in SKILLS
)

TASKS: dict[str, Task] = {task.name: task for task in (*_ENGLISH, *_TOWN)}
"""English first, then Tinytown's own, whose names begin with `tinytown.`."""


def task_named(name: str, model: HookedModel | None = None) -> Task:
    """A task by its name, or by the path of a .csv or .jsonl file of prompt pairs.

    For a model of Tinytown's vocabulary, `ioi` means `tinytown.ioi`, and so on. Raises `SettingError` for another name.
    """
    if Path(name).suffix in _FILES:
        return task_of_file(name)
    if model is not None and f"{_TINYTOWN}{name}" in TASKS and speaks_tinytown(model):
        name = f"{_TINYTOWN}{name}"
    if name not in TASKS:
        raise SettingError(
            f"no task {name!r}; the tasks are {', '.join(TASKS)}, or a .csv or .jsonl file of prompt pairs"
        )
    return TASKS[name]


def task_of_file(path: str | Path, metric: Metric = LOGIT_DIFFERENCE) -> Task:
    """The prompt pairs of a file (see `workbench.prompts.read_pairs`), all of them, whatever number is asked for."""
    needs = "single tokens for all of the answers"
    return Task(
        Path(path).stem, f"the prompts of {path}", lambda model, n, seed: read_pairs(path, model), metric, needs
    )
