"""Building an index from within the dashboard."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.addresses import Feature, Features
from app.components import missing_index, on_my_text
from app.session import Session
from saes.architectures import ARCHITECTURES
from saes.sae import SAEConfig
from saes.storage import save_sae
from tests.app.conftest import LATENTS, TEXT, WIDTH, wait
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


@pytest.mark.parametrize("architecture", ["topk_transcoder", "crosscoder"])
def test_an_sae_of_several_sites_is_indexed_and_shown(
    checkpoint: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 20)
    mid, out = "blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out"
    metadata = {"dataset_path": str(tmp_path / "text.txt"), "context_size": 32}
    if architecture == "crosscoder":
        cfg = SAEConfig(2 * WIDTH, LATENTS, widths=(WIDTH, WIDTH), metadata=metadata | {"hook_names": [mid, out]})
    else:
        where = {"hook_name": mid, "hook_name_out": out}
        cfg = SAEConfig(WIDTH, LATENTS, k=4, apply_b_dec_to_input=False, d_out=WIDTH, metadata=metadata | where)
    sae = ARCHITECTURES[architecture](cfg)
    save_sae(sae.initialise(torch.zeros(2 * WIDTH), 0), tmp_path / "sae")
    session = Session(str(checkpoint("llama")), [tmp_path / "sae"])
    session.start()
    wait(session)
    session.build_index(session.dictionary("sae"))
    wait(session)
    assert session.worker.jobs[-1].state == "done", session.worker.jobs[-1].error
    assert sae.site in text(page(session, Features(sae="sae").href()))
    latent = max(session.dictionary("sae").rows, key=lambda row: row["n_active"])["latent"]
    shown = text(page(session, Feature(sae="sae", latent=latent).href()))
    assert sae.site in shown
    assert "Logit effects" in shown
    assert "Largest activation" in text(on_my_text.answer(session, "sae", latent, TEXT))
