"""Solved examples: places where something is there to be found, as links."""

from typing import TYPE_CHECKING

from dash import Dash, Input, Output, html

from app import samples
from app.addresses import Attention, Feature, Features, Lens
from app.components import jobs, latents
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from app.session import Dictionary, Session

CONCEPTS = 3
"""So many well-found concepts get a card."""
LOOKS = {
    "induction": "for what came next last time",
    "duplicate_token": "for the same word earlier on",
    "previous_token": "at the word before",
}
"""What a head of each kind does, the most telling kind first."""
CLEAR = 0.4
"""The stripe score from which a head clearly is of its kind."""


def starts(session: "Session") -> list[html.A]:
    """Cards: a head, a prediction in the making, features of known concepts."""
    known = {sample.name: sample for sample in samples.samples(session)}
    first = samples.samples(session)[0]
    repeated = known.get("induction") or known.get("repetition") or first
    text = f"“… {_end(first.prompt)}” → {first.answer}"
    cards = [
        _head(session, repeated),
        card("Logit lens", "Watch an answer being found", text, Lens(prompt=_kept(session, first)).href()),
    ]
    dictionary = session.dictionary("") if session.dictionaries else None
    return cards + (_features(dictionary) if dictionary and dictionary.index else [])


def card(kind: str, title: str, text: str, href: str) -> html.A:
    """One start: what kind of view, what it shows, and the evidence."""
    return html.A([html.Span(kind, className="hint"), html.Strong(title), html.Span(text)], href=href, className="card")


def register(app: Dash, session: "Session") -> None:
    @app.callback(
        Output("starts", "children"),
        Output("jobs-wake", "data", allow_duplicate=True),
        Input(jobs.news_id("home"), "data"),
        prevent_initial_call="initial_duplicate",
    )
    def update(_finished: int) -> tuple[list[html.A], int]:
        return starts(session), len(session.worker.jobs)


def _head(session: "Session", sample: samples.Sample) -> html.A:
    """A head that clearly does one thing, once the heads have been scored."""
    prompt = _kept(session, sample)
    try:
        scores = session.head_scores()
    except WorkbenchError:
        return card("Attention", "Where does every head look?", sample.prompt, Attention(prompt=prompt).href())
    if scores is None:
        return card("Attention", "Where does every head look?", "Scoring the heads…", Attention(prompt=prompt).href())
    best = {kind: scores.ranked(kind)[0] for kind in LOOKS}
    kind = next((kind for kind in best if best[kind][2] >= CLEAR), max(best, key=lambda kind: best[kind][2]))
    layer, head, score = best[kind]
    title = f"L{layer}H{head} looks {LOOKS[kind]}"
    text = f"{kind.replace('_', '-').capitalize()} score {score:.2f}, the highest of {scores.induction.numel()} heads"
    return card("Attention", title, text, Attention(prompt=prompt, layer=layer, head=head).href())


def _features(dictionary: "Dictionary") -> list[html.A]:
    """The concepts that are found best, or the table where the corpus has none."""
    best = dictionary.index.coverage().best[:CONCEPTS]
    if not best:
        n_latents = dictionary.index.summary.n_latents
        return [
            card("Features", f"Browse {n_latents:,} latents", dictionary.name, Features(sae=dictionary.name).href())
        ]
    return [
        card(
            "Feature",
            f"One latent for “{latents.spoken(score.concept)}”",
            f"Latent {score.latent} of {dictionary.name}: F1 {score.f1:.2f}",
            Feature(sae=dictionary.name, latent=score.latent).href(),
        )
        for score in best
    ]


def _kept(session: "Session", sample: samples.Sample) -> str:
    """The prompt for a URL, which leaves out the one that pages start with."""
    return "" if sample.prompt == samples.first(session) else sample.prompt


def _end(prompt: str, words: int = 9) -> str:
    return " ".join(prompt.split()[-words:])
