"""Building a feature index from within the dashboard."""

from functools import partial
from typing import TYPE_CHECKING

from app.jobs import Progress
from workbench.errors import SettingError

if TYPE_CHECKING:
    from app.session import Dictionary
    from saes.index.feature_index import FeatureIndex
    from workbench.model import HookedModel

TOKENS = 500_000
"""How many tokens are read; the command line reads as many as one likes."""


def index_dictionary(model: "HookedModel", dictionary: "Dictionary", progress: Progress) -> "FeatureIndex":
    """Index an SAE over the corpus that it was trained on. Raises `SettingError` if it does not say which."""
    from saes.index.build import build_index
    from workbench.corpus import open_corpus

    trained = dictionary.sae.cfg.metadata
    source = trained.get("dataset_path")
    if not source:
        command = f"workbench sae index {dictionary.directory} --corpus TEXT"
        raise SettingError(f"{dictionary.name} does not say which corpus it was trained on; use `{command}`")
    corpus = open_corpus(source, model.tokenizer, context=trained.get("context_size") or 128, seed=0)
    step = partial(progress, total=TOKENS, message="reading the corpus")
    return build_index(dictionary.sae, model, corpus, n_tokens=TOKENS, out=dictionary.directory, on_progress=step)
