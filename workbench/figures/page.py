"""A page of figures, tables and text in one file, which opens without a network and follows the reader's theme."""

import json
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from workbench.figures.frame import reading, title
from workbench.figures.theme import DARK, FONT, LIGHT, PALETTES

_STYLE = """
body { font: 15px/1.5 FONT; color: var(--ink); background: var(--surface); margin: 0 auto; max-width: 1080px;
  padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 40px 0 4px; }
p { color: var(--muted); margin: 0 0 12px; max-width: 80ch; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
dl div { border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
dt { color: var(--muted); font-size: 12px; } dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: 12px; color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--muted); font-weight: 500; font-size: 12px; }
th, td { border-bottom: 1px solid var(--line); padding: 6px 12px 6px 0; } td.number, th.number { text-align: right; }
"""
_SCRIPT = """
const page = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => page.templates[dark.matches ? "dark" : "light"];
const settings = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"]};
page.figures.forEach((figure, i) => Plotly.newPlot(`figure-${i}`, figure.data, {...figure.layout, template: theme()},
  settings));
dark.addEventListener("change", () => page.figures.forEach((_, i) => Plotly.relayout(`figure-${i}`,
  {template: theme()})));
"""


def page(
    heading: str,
    summary: str,
    numbers: Sequence[tuple[str, str, str]],
    sections: "Sequence[go.Figure | Table]",
) -> str:
    """HTML: a heading, a line below it, boxes of (name, number, note), then the sections in turn."""
    figures = [section for section in sections if isinstance(section, go.Figure)]
    order = iter(range(len(figures)))
    body = [_figure(one, next(order)) if isinstance(one, go.Figure) else str(one) for one in sections]
    boxes = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in numbers
    )
    drawn = [json.loads(figure.to_json()) for figure in figures]
    for figure in drawn:
        figure["layout"].pop("template", None)
    templates = {"light": pio.templates[LIGHT].to_plotly_json(), "dark": pio.templates[DARK].to_plotly_json()}
    data = json.dumps({"figures": drawn, "templates": templates}, default=list).replace("</", "<\\/")
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">',
            f"<title>{escape(heading)}</title><style>{_variables()}{_STYLE.replace('FONT', FONT)}</style></head><body>",
            f"<h1>{escape(heading)}</h1><p>{escape(summary)}</p>",
            f"<dl>{''.join(boxes)}</dl>" if numbers else "",
            *body,
            f'<script type="application/json" id="figures">{data}</script>',
            f"<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script></body></html>",
        ]
    )


class Table:
    """A table under a heading. Columns whose cells are numbers stand to the right."""

    def __init__(self, heading: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        self.heading, self.text, self.columns, self.rows = heading, text, columns, rows

    def __str__(self) -> str:
        numeric = [all(isinstance(row[i], int | float) for row in self.rows) for i in range(len(self.columns))]
        kinds = [' class="number"' if number else "" for number in numeric]
        head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, self.columns, strict=True))
        body = "".join(
            "<tr>" + "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
            for row in self.rows
        )
        table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        return f"<h2>{escape(self.heading)}</h2><p>{escape(self.text)}</p>{table}"


def _cell(value: str | float) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else escape(str(value))


def _figure(figure: go.Figure, number: int) -> str:
    words = f"<h2>{escape(title(figure))}</h2><p>{escape(reading(figure))}</p>"
    return f'{words}<div class="wide"><div id="figure-{number}" style="height:{figure.layout.height}px"></div></div>'


def _variables() -> str:
    """The colours of both themes."""
    names = ("ink", "muted", "line", "surface")
    light, dark = (";".join(f"--{name}:{getattr(PALETTES[one], name)}" for name in names) for one in (LIGHT, DARK))
    return f":root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"
