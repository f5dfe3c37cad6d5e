"""The Dash application: assembled from the shell, the pages and the guards, and served by waitress."""

import plotly.io as pio
from dash import ALL, ClientsideFunction, Dash, Input, set_props

from app import router, security
from app.components import jobs, notice, panel
from app.errors import one_line
from app.session import Session
from app.shell import INDEX, shell
from workbench.errors import SettingError
from workbench.figures.theme import DARK, LIGHT

HOST = "127.0.0.1"
THREADS = 8


def create_app(session: Session) -> Dash:
    """The whole dashboard over one session. Nothing in it needs a network."""
    app = Dash(
        "app",
        title="Interp Workbench",
        update_title=None,
        index_string=INDEX,
        assets_ignore=r"theme\.js",
        serve_locally=True,
        suppress_callback_exceptions=True,
        add_log_handler=False,
        on_error=report,
        enable_mcp=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.layout = lambda: shell(session)
    _register(app, session)
    security.secure(app)
    return app


def _register(app: Dash, session: Session) -> None:
    themes = {name: pio.templates[template].to_plotly_json() for name, template in (("light", LIGHT), ("dark", DARK))}
    app.server.add_url_rule("/themes.json", "themes", lambda: themes)
    router.register(app, session)
    panel.register(app)
    jobs.register(app, session)
    for page in router.PAGES.values():
        page.register(app, session)
    app.clientside_callback(
        ClientsideFunction("workbench", "remember"),
        Input({"type": "url", "page": ALL}, "data"),
        prevent_initial_call=True,
    )


def report(error: Exception) -> None:
    """An error that no page has caught, in one line at the foot of the window."""
    set_props("alert", {"children": notice.error(one_line(error))})


def serve(app: Dash, port: int) -> None:
    """Serve on this machine only, until interrupted. `SettingError` if the port is taken."""
    from waitress import create_server

    try:
        server = create_server(app.server, host=HOST, port=port, threads=THREADS, ident=None)
    except OSError as error:
        raise SettingError(f"cannot listen on port {port}: {error.strerror}; another `--port` may be free") from None
    try:
        server.run()
    finally:
        server.close()
