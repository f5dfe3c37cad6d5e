"""One of a few choices, all in sight."""

from collections.abc import Mapping

from dash import dcc, html


def segmented(id: str, options: Mapping[str, str], value: str, caption: str) -> html.Fieldset:
    """Radio buttons drawn as one bar. `options` maps values to their names."""
    choices = [{"label": name, "value": option} for option, name in options.items()]
    return html.Fieldset(
        [html.Legend(caption), dcc.RadioItems(id=id, options=choices, value=value, className="segments")],
        className="segmented",
    )
