"""The test suite. Type hints are checked while it runs, by beartype, for which an int is a float, as in PEP 484.

Where there is no GPU, Triton's kernels run in its interpreter, which must be said before Triton is imported.
"""

import os
from collections import Counter
from collections.abc import Callable
from functools import wraps
from types import FunctionType

import jaxtyping
import torch
from beartype import BeartypeConf, beartype

CHECKED = 20
"""Calls of one function that are checked in each test: a check takes longer than most calls, and it is the first of
thousands alike that find a wrong hint.
"""
calls: Counter[Callable] = Counter()
"""Of each function in this test."""
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
check_all = jaxtyping.jaxtyped


def check_some(thing=None, *, typechecker):
    """`jaxtyping.jaxtyped`, but of a function's calls only so many."""
    if thing is None:
        return lambda thing: check_some(thing, typechecker=typechecker)
    checked = check_all(thing, typechecker=typechecker)
    if not isinstance(thing, FunctionType):
        return checked

    @wraps(thing)
    def counted(*args, **kwargs):
        __tracebackhide__ = True
        calls[thing] += 1
        return (checked if calls[thing] <= CHECKED else thing)(*args, **kwargs)

    return counted


jaxtyping.jaxtyped = check_some  # what the import hook decorates functions with

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
