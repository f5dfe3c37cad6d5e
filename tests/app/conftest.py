"""A dashboard over a tiny random model with two SAEs, one indexed and one not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dash import Dash
from flask.testing import FlaskClient

from app.server import create_app
from app.session import Session
from saes.architectures import ARCHITECTURES
from saes.index.build import build_index
from saes.sae import SAEConfig
from saes.storage import load_sae, save_sae
from workbench.corpus import open_corpus
from workbench.model import load_model

TEXT = "The cat sat on the mat, and the dog ran after the cat. Where is the café? It is near the old stone bridge.\n"
WIDTH, LATENTS = 32, 96


def make_sae(directory: Path, site: str, corpus: Path) -> Path:
    """A TopK SAE of random directions."""
    metadata = {"hook_name": site, "dataset_path": str(corpus), "context_size": 32}
    sae = ARCHITECTURES["topk"](SAEConfig(WIDTH, LATENTS, k=4, metadata=metadata))
    directions = torch.randn(LATENTS, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(directions, dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
    save_sae(sae, directory)
    return directory


@pytest.fixture(scope="session")
def sae_dirs(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """`blocks.0.hook_resid_post` with an index, `blocks.1.hook_resid_post` without."""
    folder = tmp_path_factory.mktemp("saes")
    corpus = folder / "text.txt"
    corpus.write_text(TEXT * 40)
    made = [make_sae(folder / f"blocks.{i}.hook_resid_post", f"blocks.{i}.hook_resid_post", corpus) for i in (0, 1)]
    model = load_model(checkpoint("llama"))
    text = open_corpus(str(corpus), model.tokenizer, context=32)
    build_index(load_sae(made[0]), model, text, n_tokens=2_000, out=made[0])
    return made


@pytest.fixture(scope="session")
def session(checkpoint: Callable[[str], Path], sae_dirs: list[Path]) -> Session:
    """An open session, its heads scored."""
    session = Session(str(checkpoint("llama")), sae_dirs)
    session.start()
    session.worker.ask(lambda: None)
    session.head_scores()
    wait(session)
    assert session.ready, session.loading.error
    return session


def wait(session: Session) -> None:
    """Until no job is left."""
    import time

    while session.worker.active():
        time.sleep(0.01)


@pytest.fixture(scope="session")
def dashboard(session: Session) -> Dash:
    return create_app(session)


@pytest.fixture
def client(dashboard: Dash) -> FlaskClient:
    """A browser on this machine, as far as headers go."""
    return dashboard.server.test_client()
