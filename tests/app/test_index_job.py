"""Building an index from within the dashboard."""

import shutil
from collections.abc import Callable
from pathlib import Path

from app.addresses import Features
from app.components import missing_index
from app.session import Session
from tests.app.conftest import wait
from tests.app.test_pages import page, text


def test_the_button_builds_the_index_and_the_page_opens(
    checkpoint: Callable[[str], Path], sae_dirs: list[Path], tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(sae_dirs[1], bare)
    session = Session(str(checkpoint("llama")), [bare])
    session.start()
    wait(session)
    assert "Building" in text(missing_index.progress(session, "bare", wanted=True))
    wait(session)
    assert session.worker.jobs[-1].state == "done", session.worker.jobs[-1].error
    assert "ready" in text(missing_index.progress(session, "bare", wanted=False))
    assert (bare / "features" / "latents.parquet").is_file()
    assert "96 latents" in text(page(session, Features(sae="bare").href()))
