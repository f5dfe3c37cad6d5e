"""The test suite. Type hints are checked while it runs, by beartype, for which an int is a float, as in PEP 484.

Where there is no GPU, Triton's kernels run in its interpreter, which must be said before Triton is imported.
"""

import os

import torch
from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
