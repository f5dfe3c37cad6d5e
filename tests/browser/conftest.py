"""A served dashboard and a real Chromium. A test fails if its page logs an error, loses a request, or leaves home."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.cli import bundled_saes
from app.server import HOST, create_app
from app.session import Session
from tests.app.conftest import sae_dirs  # noqa: F401 - a fixture
from workbench.tinytown import MODEL_DIR

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync")


def chromium() -> str | None:
    """Where Chromium is: `WORKBENCH_CHROMIUM`, or one on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("WORKBENCH_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: set WORKBENCH_CHROMIUM or put one on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["tiny", "tinytown"])
def site(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], sae_dirs: list[Path]) -> Iterator[str]:  # noqa: F811
    """The address of a dashboard: over a tiny random model, and over the bundled one."""
    from waitress import create_server

    if request.param == "tinytown" and not (MODEL_DIR / "config.json").is_file():
        pytest.skip("the bundled model is not there")
    tiny = request.param == "tiny"
    session = Session(str(checkpoint("llama")), sae_dirs) if tiny else Session("tinytown", bundled_saes("tinytown"))
    session.start()
    server = create_server(create_app(session).server, host=HOST, port=0, threads=8)
    threading.Thread(target=server.run, daemon=True).start()
    yield f"http://{HOST}:{server.effective_port}"
    server.close()


@pytest.fixture
def open_page(browser, site: str) -> Iterator[Callable]:
    """`open_page("/lens", width=800, theme="dark")`: a page in a context of its own, watched."""
    contexts, faults = [], []

    def open_(path: str = "/", *, width: int = 1440, theme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 950}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: _note_failure(request, faults))
        page.on("request", lambda request: _note_foreign(request.url, site, faults))
        page.on(
            "response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status >= 400 else 0
        )
        page.goto(site + path)
        page.wait_for_selector("main h1")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not faults


def _note_failure(request, faults: list[str]) -> None:
    """A request that was lost; not one that was given up because the page was left."""
    if request.failure != "net::ERR_ABORTED":
        faults.append(f"failed: {request.url} ({request.failure})")


def _note_foreign(url: str, site: str, faults: list[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != urlsplit(site).netloc:
        faults.append(f"left home: {url}")
