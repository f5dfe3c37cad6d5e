"""A figure as a file."""

from pathlib import Path

import plotly.graph_objects as go

from workbench.files import write_text


def save_figure(path: Path, figure: go.Figure) -> None:
    """Write a figure as .html, which opens without a network, or as plotly's .json. Raises `OSError`."""
    write_text(path, figure.to_html() if path.suffix == ".html" else figure.to_json())
