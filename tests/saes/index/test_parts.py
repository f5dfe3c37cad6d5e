"""An index gathered in parts (shares, spills, after a kill) is that of one pass, value for value."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from saes.architectures import ARCHITECTURES
from saes.index import examples, quantiles
from saes.index.build import assemble, build_index
from saes.index.gather import gather, start_job
from saes.index.shelf import FOLDER, Shelf
from saes.index.storage import TABLES, table_path
from saes.sae import SAE, SAEConfig
from tests.checkpoints import TEXT
from workbench.corpus import PackedCorpus, open_corpus
from workbench.errors import SettingError
from workbench.model import HookedModel

BATCH = 4


@pytest.fixture(scope="module")
def model(hooked: Callable[[str], HookedModel]) -> HookedModel:
    return hooked("gpt2")


@pytest.fixture(scope="module")
def corpus(model: HookedModel, tmp_path_factory: pytest.TempPathFactory) -> PackedCorpus:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    generator, words = torch.Generator().manual_seed(0), TEXT.split()
    lines = (" ".join(words[i] for i in torch.randperm(len(words), generator=generator)) for _ in range(60))
    path.write_text("\n\n".join(lines))
    return open_corpus(path, model.tokenizer, context=16)


@pytest.fixture(scope="module")
def sae(model: HookedModel) -> SAE:
    config = SAEConfig(32, 64, k=5, metadata={"hook_name": "blocks.1.hook_resid_post"})
    return ARCHITECTURES["topk"](config).initialise(torch.zeros(32), seed=0).requires_grad_(False)


def tables(directory: Path) -> dict[str, pa.Table]:
    return {name: pq.read_table(table_path(directory, name)) for name in TABLES}


@pytest.fixture(scope="module")
def whole(sae, model, corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    out = tmp_path_factory.mktemp("whole")
    build_index(sae, model, corpus, n_tokens=10**6, out=out, batch_size=BATCH)
    assert not (out / FOLDER).exists()
    return tables(out)


def test_shares_of_a_corpus_give_the_index_of_the_whole(sae, model, corpus, whole, tmp_path: Path):
    job = start_job(sae, model, corpus, n_tokens=10**6, batch_size=BATCH, seed=0, shares=3)
    for share in (3, 1):
        gather(sae, model, corpus, job, out=tmp_path, share=share)
    with pytest.raises(SettingError, match="share 2 of 3 is not done"):
        assemble(sae, model, corpus, job, out=tmp_path)
    gather(sae, model, corpus, job, out=tmp_path, share=2)
    assemble(sae, model, corpus, job, out=tmp_path)
    assert tables(tmp_path) == whole


def test_the_limit_of_memory_changes_nothing(sae, model, corpus, whole, tmp_path: Path):
    job = start_job(sae, model, corpus, n_tokens=10**6, batch_size=BATCH, seed=0)
    gather(sae, model, corpus, job, out=tmp_path, memory=60_000)
    assert len(Shelf(tmp_path).paths(job)) > 3
    assemble(sae, model, corpus, job, out=tmp_path)
    assert tables(tmp_path) == whole


class KilledError(Exception):
    """Stands for SIGKILL: nothing is done on the way out."""


def test_what_was_killed_goes_on(sae, model, corpus, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("saes.index.gather.SAVE_SECONDS", 0.0)
    seen = []

    def die(done: int) -> None:
        seen.append(done)
        if len(seen) in (4, 9):
            raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            build_index(sae, model, corpus, n_tokens=10**6, out=tmp_path, batch_size=BATCH, on_progress=die)
    build_index(sae, model, corpus, n_tokens=10**6, out=tmp_path, batch_size=BATCH, on_progress=die)
    assert tables(tmp_path) == whole
    repeated = len(seen) - len(set(seen))
    assert repeated == 2  # each kill cost the batch that had not been put aside


def test_parts_of_another_job_are_not_used(sae, model, corpus, whole, tmp_path: Path):
    other = start_job(sae, model, corpus, n_tokens=10**6, batch_size=BATCH, seed=1)
    gather(sae, model, corpus, other, out=tmp_path)
    damaged = tmp_path / FOLDER / "share-1-of-1.0000.safetensors"
    build_index(sae, model, corpus, n_tokens=10**6, out=tmp_path, batch_size=BATCH)
    assert tables(tmp_path) == whole
    damaged.parent.mkdir()
    damaged.write_bytes(b"nonsense")
    build_index(sae, model, corpus, n_tokens=10**6, out=tmp_path, batch_size=BATCH)
    assert tables(tmp_path) == whole


def test_quantiles(sae, model, corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quantiles, "N_VALUES", 40)
    monkeypatch.setattr(quantiles, "PENDING", 30)
    monkeypatch.setattr(examples, "PENDING", 30)
    rows = []
    for batch in corpus.batches(BATCH):
        run = model.run(batch.tokens, capture=[sae.site], stop_after=sae.site)
        rows.append(sae.encode(run[sae.site][batch.mask((0,))]))
    dense = torch.cat(rows)
    index = build_index(sae, model, corpus, n_tokens=10**6, out=tmp_path, batch_size=BATCH)
    kinds = set()
    for latent in range(sae.cfg.d_sae):
        record, active = index.latent(latent), dense[:, latent][dense[:, latent] > 0].double()
        kinds.add((record.n_active > 0, record.quantiles_exact))
        assert record.quantiles_exact == (len(active) <= 40)
        if not len(active):
            assert record.quantiles == []
        elif record.quantiles_exact:
            expected = torch.quantile(active, torch.tensor(quantiles.SHARES).double()).tolist()
            assert record.quantiles == pytest.approx(expected, rel=1e-4)
        else:
            share = [(active <= value).double().mean().item() for value in record.quantiles]
            assert share == pytest.approx(quantiles.SHARES, abs=0.3)
    assert {(True, True), (True, False)} <= kinds


def test_a_missing_directory_is_named_before_anything_heavy_is_imported():
    code = (
        "import sys\nfrom pathlib import Path\nfrom saes.index.cli import IndexOptions, run\n"
        "try:\n    run(IndexOptions(Path('/nowhere/sae')))\n"
        "except Exception as error:\n    print(error)\n"
        "print({'torch', 'duckdb', 'numpy', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "/nowhere/sae is not a directory; give that of an SAE, with cfg.json in it",
        "set()",
    ]
