"""`workbench sae index`: what is known of every latent of an SAE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from workbench.cli.command import Command

if TYPE_CHECKING:
    from saes.index.records import Report

index = Command(
    summary="Index an SAE's latents: examples, logits, neighbours, concepts",
    options="saes.index.cli:IndexOptions",
    run="saes.index.cli:run",
)


@dataclass(frozen=True)
class IndexOptions:
    """Read a corpus once and write what every latent of an SAE does into its directory."""

    sae: Positional[Path]
    """Directory of the SAE, in SAELens format; the index becomes its folder `features`."""
    model: str | None = None
    """The model; default: the one the SAE was trained on."""
    corpus: str | None = None
    """The text to read; default: the one the SAE was trained on."""
    tokens: int = 1_000_000
    """How many tokens to read."""
    context: int | None = None
    """Tokens per sequence; default: as in training."""
    batch_size: int = 16
    """Sequences per run of the model."""
    seed: int = 0
    """Decides the order of the corpus, and which examples are sampled."""
    memory: float = 2.0
    """Gigabytes of examples and samples to gather before they are put aside on disk; the index stays the same."""
    share: int = 1
    """Which share of the corpus to read, of `--shares`. Whoever finishes the last one writes the index."""
    shares: int = 1
    """Into how many shares the corpus is divided, for as many processes that see the same directory."""
    device: str | None = None
    """cpu, cuda, mps…; default: the best one there is."""


def run(options: IndexOptions) -> Report | str:
    _check(options)
    from rich.console import Console
    from rich.progress import Progress

    from saes.index.build import assemble
    from saes.index.gather import gather, start_job
    from saes.index.shelf import Shelf
    from saes.storage import load_sae
    from workbench.corpus import open_corpus
    from workbench.errors import SettingError
    from workbench.model import load_model

    sae = load_sae(options.sae)
    trained = sae.cfg.metadata
    name, source = options.model or trained.get("model_name"), options.corpus or trained.get("dataset_path")
    if not (name and source):
        missing = "corpus" if name else "model"
        raise SettingError(f"{options.sae} does not say which {missing} it was trained on; give --{missing}")
    model = load_model(name, device=options.device)
    context = options.context or trained.get("context_size") or 128
    corpus = open_corpus(source, model.tokenizer, context=context, seed=options.seed)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("indexing", total=options.tokens)
        found = sae.to(model.device), model, corpus
        job = start_job(
            *found,
            n_tokens=options.tokens,
            batch_size=options.batch_size,
            seed=options.seed,
            shares=options.shares,
        )
        gather(
            *found,
            job,
            out=options.sae,
            share=options.share,
            memory=int(options.memory * 1e9),
            on_progress=lambda done: bar.update(task, completed=done),
        )
    missing = Shelf(options.sae).missing(job)
    if missing:
        return f"share {options.share} of {options.shares} is done; to be read still: {', '.join(map(str, missing))}"
    return assemble(*found, job, out=options.sae).report()


def _check(options: IndexOptions) -> None:
    """What is wrong with the options, said before anything heavy is imported."""
    from workbench.errors import DamagedFile, SettingError

    if not options.sae.is_dir():
        raise DamagedFile(f"{options.sae} is not a directory; give that of an SAE, with cfg.json in it")
    if not 1 <= options.share <= options.shares:
        raise SettingError(f"share must be 1 to {options.shares}, the number of shares, not {options.share}")
    if options.memory <= 0:
        raise SettingError(f"memory must be above 0 gigabytes, not {options.memory:g}")
