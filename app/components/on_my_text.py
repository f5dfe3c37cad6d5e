"""One latent on the reader's own text, live."""

from typing import TYPE_CHECKING, Any

from dash import html

from app.components import notice, prompt, tokens
from app.components.remarks import remarks
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from app.session import Session


def on_my_text(text: str) -> html.Section:
    """A box for the text and a place for the answer."""
    return html.Section(
        [
            html.Header(html.H2("On my text")),
            html.Div(
                [
                    prompt.prompt("feature", text, caption="Its tokens are tinted by this latent's activation"),
                    html.Div(id="feature-live", className="live"),
                ],
                className="body",
            ),
        ],
        className="panel",
    )


def answer(session: "Session", sae: str, latent: int, text: str | None) -> Any:
    """The text's tokens, tinted on the scale of the latent's maximum, and its largest activation here."""
    if not (text or "").strip():
        return None
    dictionary = session.dictionary(sae)
    try:
        firing = session.firing(dictionary, text)
    except WorkbenchError as error:
        return notice.error(str(error))
    values = firing.activations[:, latent].tolist()
    known = dictionary.index.latent(latent).maximum
    largest = max(values)
    at = values.index(largest)
    said = (
        f"Largest activation {largest:.2f}, {largest / known:.0%} of the most seen in the corpus ({known:.2f})."
        if largest > 0 and known > 0
        else "It does not fire on this text."
    )
    shown = tokens.text(firing.strings, values, max(known, largest), peak=at if largest > 0 else None)
    return [*remarks(session.model, text), html.P(shown), html.P(said, className="hint")]
