"""The latents that fire on a text: the text itself, to pick a token from, and a line for each latent."""

from typing import TYPE_CHECKING, Any

from dash import html

from app.components import latents, tokens
from app.components.facts import bar
from app.components.panel import reading_button

if TYPE_CHECKING:
    from app.session import Dictionary
    from saes.firing import Firing

SHOWN = 24
COLUMNS = (
    ("Latent", "Number of the latent in the SAE."),
    ("What it is", "Its best concept, if that has F1 of 0.5 or more; else the tokens that its top examples peak on."),
    ("Activation", "Its largest activation on the text, or at the picked token. The bar is relative to its maximum."),
    ("Where", "The text, tinted on the scale up to the latent's maximum over the corpus."),
)


def firings(dictionary: "Dictionary", firing: "Firing", at: int | None) -> list[Any]:
    """The text with the number of latents that fire at each token, and the strongest latents."""
    active = (firing.activations > 0).sum(dim=-1).tolist()
    chosen = "the whole text" if at is None else f"token {at}"
    strongest = firing.strongest(SHOWN, at)
    head = html.Tr([html.Th([name, " ", reading_button(why)]) for name, why in COLUMNS])
    body = [_row(dictionary, firing, latent, value) for latent, value in strongest]
    table = html.Table([html.Thead(head), html.Tbody(body)], className="rows firings")
    nothing = html.P("No latent fires here: an SAE does not read special tokens.", className="body hint")
    return [
        html.Section(
            html.Div(tokens.text(firing.strings, picked=at, notes=[f"{n} latents fire here" for n in active])),
            className="panel body-only pick",
        ),
        html.Section(
            [html.Header(html.H2(f"The strongest latents on {chosen}")), table if strongest else nothing],
            className="panel scroll",
        ),
    ]


def _row(dictionary: "Dictionary", firing: "Firing", latent: int, value: float) -> html.Tr:
    facts = dictionary.rows[latent]
    known = max(facts["maximum"], value)
    values = firing.activations[:, latent].tolist()
    link = html.A(str(latent), href=latents.href(dictionary.name, latent), className="row-link number")
    cells = [link, latents.meaning(facts), bar(value / known, f"{value:.2f}", "amber")]
    shown = tokens.text(firing.strings, values, known)
    return html.Tr([*(html.Td(cell) for cell in cells), html.Td(shown, className="running")])
