"""Build the feature index of an SAE: one pass over a corpus, then the tables, then the files."""

from collections.abc import Callable
from pathlib import Path

from saes.index.feature_index import FeatureIndex
from saes.index.gather import MEMORY, fingerprint, gather, start_job
from saes.index.partials import Parts
from saes.index.records import Summary
from saes.index.shelf import Job, Shelf
from saes.index.storage import write_index
from saes.index.tables import build_tables
from saes.sae import SAE
from workbench.corpus import Corpus
from workbench.errors import CorpusError, SettingError
from workbench.model import HookedModel


def build_index(
    sae: SAE,
    model: HookedModel,
    corpus: Corpus,
    *,
    n_tokens: int,
    out: Path | str,
    batch_size: int = 16,
    seed: int = 0,
    memory: int = MEMORY,
    on_progress: Callable[[int], None] | None = None,
) -> FeatureIndex:
    """Index every latent over the first `n_tokens` text tokens of the corpus (whole batches; fewer if it ends).

    Padding and special tokens are read by the model but not counted, as in the SAE's training. `out` is the SAE's
    directory: the index is its folder `features`, written whole at the end. `seed` draws the sampled examples.
    `memory` is how many bytes of examples, values and samples are gathered before they are put aside on disk; it
    changes nothing in the index. Killed and called again with the same arguments, it goes on where it was.
    `on_progress` is called with the number of tokens done.

    Raises `SettingError` if the SAE does not fit the model, `CorpusError` if the corpus holds no text, and `OSError` if
    the files cannot be written.
    """
    job = start_job(sae, model, corpus, n_tokens=n_tokens, batch_size=batch_size, seed=seed)
    gather(sae, model, corpus, job, out=out, memory=memory, on_progress=on_progress)
    return assemble(sae, model, corpus, job, out=out)


def assemble(sae: SAE, model: HookedModel, corpus: Corpus, job: Job, *, out: Path | str) -> FeatureIndex:
    """Write the index from the parts that every share of the job has gathered, and remove these.

    Raises `SettingError` if a share is not done, `CorpusError` if all of them found no text, and `OSError`.
    """
    shelf = Shelf(Path(out))
    if missing := shelf.missing(job):
        raise SettingError(f"share {missing[0]} of {job.shares} is not done yet")
    parts = Parts(shelf.paths(job))
    found = parts.counts
    if not found.activity.n_tokens:
        shelf.clear()
        raise CorpusError(f"{corpus.name} holds no text to index")
    tables, coactivation_tokens = build_tables(parts, sae, model, corpus.concepts)
    n_active = found.activity.n_active
    summary = Summary(
        n_latents=sae.cfg.d_sae,
        n_dead=int((n_active == 0).sum()),
        n_tokens=found.activity.n_tokens,
        l0=float(n_active.sum() / found.activity.n_tokens),
        site=sae.site,
        model=model.info.name,
        model_fingerprint=model.fingerprint,
        corpus=corpus.name,
        corpus_fingerprint=corpus.fingerprint,
        sae_fingerprint=fingerprint(sae),
        context=corpus.context,
        seed=job.seed,
        coactivation_tokens=coactivation_tokens,
        concepts=dict(zip(corpus.concepts, found.concepts.n_tokens.tolist(), strict=True)),
    )
    write_index(Path(out), tables, summary)
    shelf.clear()
    return FeatureIndex.open(out)
