"""`workbench probe`: which concepts can be read off the activations, and where. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    from workbench.probing import Probes

command = Command(
    summary="Which concepts can be read off the activations by a plane, and where",
    options="workbench.cli.probe:ProbeOptions",
    run="workbench.cli.probe:run",
    figure="workbench.figures.probing:scores",
)


@dataclass(frozen=True)
class ProbeOptions:
    """Linear probes for every concept at every site, cross-validated by document, with control tasks."""

    concepts: tuple[str, ...] = ()
    """Concepts to probe for; by default all that are labelled."""
    site: tuple[str, ...] = ("blocks.*.hook_resid_post",)
    """Where; `*` matches layers."""
    labels: Path | None = None
    """Labels of your own: a .jsonl file of {"text": …, "label": …} lines, or, for labels of tokens,
    {"text": …, "spans": [[first character, one past the last, label], …]}."""
    pool: Literal["last", "mean"] = "last"
    """What stands for a whole text: its last token, or the mean of its tokens."""
    corpus: str = "tinytown"
    """A labelled corpus, where --labels is not given."""
    tokens: int = 30_000
    """Tokens of the corpus to probe."""
    folds: int = 5
    """Parts that the documents are divided into; each is judged by probes trained on the others."""
    seed: int = 0
    """Divides the documents, and draws the control labels."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    out: Path | None = None
    """Save the figures here, and the best direction for every concept, to steer with."""

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise SettingError(f"--folds must be 2 or more, not {self.folds}")
        if self.tokens < 1:
            raise SettingError(f"--tokens must be 1 or more, not {self.tokens}")


def run(options: ProbeOptions) -> Probes:
    from workbench.corpus import open_held_out
    from workbench.model import load_model
    from workbench.probe_data import text_data, token_data
    from workbench.probing import probe
    from workbench.texts import TextCorpus, read_labelled, whole_labels

    texts = read_labelled(options.labels) if options.labels is not None else []
    model, source = load_model(options.model), str(options.labels)
    if not texts:
        corpus = open_held_out(options.corpus, model.tokenizer, context=min(128, model.info.n_ctx))
        data = token_data(model, corpus, options.site, n_tokens=options.tokens)
    elif any(one.spans for one in texts):
        corpus = TextCorpus(texts, model.tokenizer, model.info.n_ctx, name=source)
        data = token_data(model, corpus, options.site, n_tokens=None)
    else:
        data = text_data(model, *whole_labels(texts, source), options.site, pool=options.pool, source=source)
    if options.concepts:
        data = data.only(options.concepts)
    probes = probe(data, folds=options.folds, seed=options.seed)
    if options.out is not None:
        probes.save(options.out)
    return probes
