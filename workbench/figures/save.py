"""Figures as a file."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from workbench.errors import SettingError
from workbench.figures.page import page
from workbench.files import write_text


def save_figures(path: Path, figures: Sequence[go.Figure], heading: str, summary: str) -> None:
    """Write figures under a heading as .html, which opens without a network, or a single one as plotly's .json.

    Raises `OSError`; `SettingError` for several figures in a .json.
    """
    if path.suffix == ".html":
        write_text(path, page(heading, summary, [], figures))
    elif len(figures) == 1:
        write_text(path, figures[0].to_json())
    else:
        raise SettingError(f"this result has {len(figures)} figures, and a .json holds one; give an .html file")
