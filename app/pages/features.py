"""The features page: every latent of an SAE, sorted and filtered."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dash import Dash, Input, Output, dcc, html
from dash import State as Current

from app.addresses import LOWEST_DENSITY
from app.addresses import Features as PageState
from app.components import dictionaries, feature_filters, feature_table, missing_index, notice, overview
from app.components.feature_table import PER_PAGE
from app.state import read
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from app.session import Dictionary, Session

TITLE = "Features"


def layout(session: "Session", state: PageState) -> Any:
    heading = html.H1(TITLE)
    if not session.dictionaries:
        return [heading, dictionaries.dictionaries(session)]
    dictionary = session.dictionary(state.sae)
    top = [heading, dictionaries.selector(session, dictionary, lambda name: PageState(sae=name).href())]
    if dictionary.index is None:
        return [*top, missing_index.missing_index(dictionary)]
    return [
        *top,
        overview.overview(dictionary, session.model),
        feature_filters.filters(dictionary, state),
        html.Div(results(session, state), id="features-results"),
        dcc.Store(id="features-state", data=state.href()),
        dcc.Store(id={"type": "url", "page": "features"}),
    ]


def register(app: Dash, session: "Session") -> None:
    missing_index.register(app, session)

    @app.callback(
        Output("features-results", "children"),
        Output({"type": "url", "page": "features"}, "data"),
        Input("features-search", "value"),
        Input("features-concept", "value"),
        Input("features-density", "value"),
        Input("features-least", "value"),
        Current("features-state", "data"),
        prevent_initial_call=True,
    )
    def update(
        search: str | None, concept: str | None, density: list, least: int | float | None, before: str
    ) -> tuple[Any, str]:
        state = filtered(read(PageState, before.partition("?")[2]), search, concept, density, least)
        return results(session, state), state.href()


def filtered(
    state: PageState, search: str | None, concept: str | None, density: Sequence[int | float], least: int | float | None
) -> PageState:
    """`state` with what the controls say, at the first page unless they say what it already said."""
    rare, common = density
    new = replace(
        state, search=search or "", concept=concept or "", rare=float(rare), common=float(common), least=least or 0.0
    )
    return new if new == state else replace(new, page=1)


def results(session: "Session", state: PageState) -> list[Any]:
    """The table and its pager, or why there is none."""
    dictionary = session.dictionary(state.sae)
    try:
        page = query(dictionary, state)
    except WorkbenchError as error:
        return [notice.error(str(error))]
    return feature_table.table(dictionary, state, page)


def query(dictionary: "Dictionary", state: PageState) -> Any:
    """The rows that `state` asks for. Raises `SettingError` for an unknown column or concept."""
    return dictionary.index.table(
        sort=state.sort,
        descending=state.order != "up",
        density=(
            10**state.rare if state.rare > LOWEST_DENSITY else None,
            10**state.common if state.common < 0 else None,
        ),
        maximum=(state.least or None, None),
        concept=state.concept or None,
        search=state.search,
        limit=PER_PAGE,
        offset=PER_PAGE * (max(state.page, 1) - 1),
    )
