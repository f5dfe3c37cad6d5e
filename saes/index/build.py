"""Build the feature index of an SAE: one pass over a corpus, then the tables, then the files."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from saes.index.accumulator import IndexAccumulator
from saes.index.feature_index import FeatureIndex
from saes.index.firings import firings
from saes.index.records import Summary
from saes.index.storage import write_index
from saes.index.tables import build_tables
from saes.sae import SAE
from workbench.activations import harvest, special_ids
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
    batch_size: int = 32,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> FeatureIndex:
    """Index every latent over the first `n_tokens` text tokens of the corpus (whole batches; fewer if it ends).

    Padding and special tokens are read by the model but not counted, as in the SAE's training. `out` is the SAE's
    directory: the index is its folder `features`, written whole at the end. `seed` draws the sampled examples.
    `on_progress` is called with the number of tokens done.

    Raises `SettingError` if the SAE does not fit the model, `CorpusError` if the corpus holds no text, and `OSError` if
    the files cannot be written.
    """
    found = gather(sae, model, corpus, n_tokens=n_tokens, batch_size=batch_size, seed=seed, on_progress=on_progress)
    tables, coactivation_tokens = build_tables(found, sae, model, corpus.concepts)
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
        seed=seed,
        coactivation_tokens=coactivation_tokens,
        concepts=dict(zip(corpus.concepts, found.concepts.n_tokens.tolist(), strict=True)),
    )
    write_index(Path(out), tables, summary)
    return FeatureIndex.open(out)


def gather(
    sae: SAE,
    model: HookedModel,
    corpus: Corpus,
    *,
    n_tokens: int,
    batch_size: int = 32,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> IndexAccumulator:
    """The pass over the corpus, see `build_index`."""
    if n_tokens < 1:
        raise SettingError(f"tokens must be at least 1, not {n_tokens}")
    if not sae.site:
        raise SettingError("the SAE does not say at which site of the model it belongs")
    found = IndexAccumulator(sae.cfg.d_sae, len(corpus.concepts), seed)
    skip = special_ids(model.tokenizer)
    for batch in harvest(model, corpus, [sae.site], batch_size=batch_size):
        width = batch.activations[sae.site].shape[-1]
        if width != sae.cfg.d_in:
            raise SettingError(f"the SAE takes {sae.cfg.d_in} dimensions, and {sae.site} of this model has {width}")
        found.update(firings(sae, batch, batch.mask(skip)))
        if on_progress:
            on_progress(min(found.activity.n_tokens, n_tokens))
        if found.activity.n_tokens >= n_tokens:
            break
    if not found.activity.n_tokens:
        raise CorpusError(f"{corpus.name} holds no text to index")
    return found


def fingerprint(sae: SAE) -> str:
    """A hash of the SAE's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
