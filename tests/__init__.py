"""The test suite. Type hints are checked while it runs, by beartype, for which an int is a float, as in PEP 484.

Where there is no GPU, Triton's kernels run in its interpreter, which must be said before Triton is imported.
"""

import os
from types import FunctionType

import jaxtyping
import torch
from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
check_shapes = jaxtyping.jaxtyped


def check(thing=None, *, typechecker):
    """`jaxtyping.jaxtyped`, but for functions in whose signature no array is: beartype alone checks as much of them.

    What jaxtyping adds, that the axes of several arrays agree, takes fifty times as long as a call of beartype.
    """
    if thing is None:
        return lambda thing: check(thing, typechecker=typechecker)
    if isinstance(thing, FunctionType):
        hints = thing.__annotations__.values()
        if not any(isinstance(hint, str) or "jaxtyping." in repr(hint) for hint in hints):
            return typechecker(thing)
    return check_shapes(thing, typechecker=typechecker)


jaxtyping.jaxtyped = check

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
