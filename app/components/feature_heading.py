"""Which feature this is: the way here, its number, its best concept, and the way to others."""

import random
from typing import TYPE_CHECKING, Any

from dash import html

from app.addresses import Feature, Features
from app.components import latents
from app.components.facts import facts, percent

if TYPE_CHECKING:
    from app.session import Dictionary
    from saes.index.records import LatentRecord


def heading(dictionary: "Dictionary", record: "LatentRecord") -> list[Any]:
    """Breadcrumb, title, steps and facts."""
    return [
        html.Nav(
            [
                html.A("Features", href=Features().href()),
                html.Span("/"),
                html.A(dictionary.name, href=Features(sae=dictionary.name).href()),
            ],
            className="crumbs",
            **{"aria-label": "Where this is"},
        ),
        html.Div(
            [html.H1([f"Feature {record.latent} ", _name(record)]), steps(dictionary, record.latent)],
            className="title-row",
        ),
        facts(
            {
                "density": percent(record.density) if record.n_active else "never fires",
                "fires on": f"{record.n_active:,} of {dictionary.index.summary.n_tokens:,} tokens",
                "maximum": f"{record.maximum:.2f}",
                "mean when it fires": f"{record.mean:.2f}",
                "site": dictionary.index.summary.site,
            }
        ),
    ]


def _name(record: "LatentRecord") -> Any:
    """The best concept, if it is a good one."""
    best = record.concepts[0] if record.concepts else None
    if best is None or best.f1 < latents.GOOD:
        return None
    return html.Span(latents.spoken(best.concept), className="named")


def steps(dictionary: "Dictionary", latent: int) -> html.Nav:
    """Previous, random, next. The random one is alive."""
    rows = dictionary.rows
    alive = [row["latent"] for row in rows if row["n_active"] and row["latent"] != latent]
    ways = {
        "previous": (latent - 1) % len(rows),
        "random": random.choice(alive) if alive else latent,
        "next": (latent + 1) % len(rows),
    }
    return html.Nav(
        [
            html.A(
                name.capitalize(),
                href=Feature(sae=dictionary.name, latent=to).href(),
                className="chip",
                **{"data-step": name, "data-tip": f"key {name[0]}"},
            )
            for name, to in ways.items()
        ],
        className="samples",
        **{"aria-label": "Other features"},
    )
