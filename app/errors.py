"""Errors as one line for the reader; what is a bug also leaves its traceback in the terminal."""

import sys
import traceback

from workbench.errors import WorkbenchError


def one_line(error: Exception) -> str:
    """What went wrong."""
    if isinstance(error, WorkbenchError):
        return str(error)
    traceback.print_exception(error, file=sys.stderr)
    return f"Something broke in the workbench ({type(error).__name__}). The terminal says where."
