"""What can go wrong for a user, as exceptions whose text is one line: what is wrong, and what would be right.

    WorkbenchError
    ├── UnknownSite       a site name that the model does not have
    ├── ModelError        a model that cannot be found, read, or wrapped
    ├── PromptError       a prompt that the model cannot take: empty, too long
    ├── EditError         an edit that does not fit the activation it is meant for
    ├── CorpusError       a corpus that cannot be found or read, or holds too little
    ├── DamagedFile       a file that is truncated, foreign, or does not fit its neighbours
    ├── TrainingError     a training run that cannot start or has diverged
    └── SettingError      an option whose value makes no sense

The command line prints the text of any of these and exits with status 1. Anything else is a bug, traceback and all.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class WorkbenchError(Exception):
    """Base of every error that is the user's to mend."""


class UnknownSite(WorkbenchError):
    """A site name that the model does not have."""


class ModelError(WorkbenchError):
    """A model that cannot be found, read, or wrapped."""


class PromptError(WorkbenchError):
    """A prompt that the model cannot take."""


class EditError(WorkbenchError):
    """An edit that does not fit the activation it is meant for."""


class CorpusError(WorkbenchError):
    """A corpus that cannot be found or read, or holds too little."""


class DamagedFile(WorkbenchError):
    """A file that is truncated, foreign, or does not fit its neighbours."""


class TrainingError(WorkbenchError):
    """A training run that cannot start or has diverged."""


class ProcessLost(WorkbenchError):
    """Another process of the same run has ended."""


class SettingError(WorkbenchError):
    """An option whose value makes no sense."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that it is nearest to, if there is one."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
