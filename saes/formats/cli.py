"""`workbench sae export` and `workbench sae import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from workbench.cli.command import Command

export = Command(
    summary="Write an SAE for SAELens, or its feature index for Neuronpedia",
    options="saes.formats.cli:ExportOptions",
    run="saes.formats.cli:run_export",
)
import_ = Command(
    summary="Read an SAE that sparsify, dictionary_learning or SAELens saved",
    options="saes.formats.cli:ImportOptions",
    run="saes.formats.cli:run_import",
)


@dataclass(frozen=True)
class ExportOptions:
    """Write an SAE in the form that another tool reads."""

    sae: Positional[Path]
    """Directory of the SAE."""
    out: Path
    """The directory to write, which must not be there yet."""
    to: Literal["saelens", "neuronpedia"] = "neuronpedia"
    """saelens: cfg.json and the weights. neuronpedia: the feature index, as the site's bulk import reads it."""
    source_set: str = "workbench"
    """Neuronpedia's name for the SAEs that belong together: an SAE is `{layer}-{source_set}`."""
    release: str = "workbench"
    """Neuronpedia's name for the publication they are part of."""
    creator: str = "workbench"
    """The id of the account they are filed under."""
    model: str | None = None
    """The model; default: the one that the index was made with."""


@dataclass(frozen=True)
class ImportOptions:
    """Read an SAE that another tool saved, and write it in SAELens' format, which every other command takes."""

    source: Positional[Path]
    """Directory of one SAE, saved by sparsify (sae.safetensors), dictionary_learning (ae.safetensors) or SAELens."""
    out: Path
    """The directory to write, which must not be there yet."""
    site: str | None = None
    """Where in the model it belongs, such as blocks.3.hook_resid_post; default: as its files say."""
    model: str | None = None
    """The model it belongs to; default: as its files say."""


def run_export(options: ExportOptions) -> str:
    from workbench.errors import SettingError

    _check(options.sae, options.out)
    if options.to == "saelens":
        from saes.formats.portable import read_saelens, write_saelens

        sae = read_saelens(options.sae)
        if sae.cfg["architecture"].startswith("topk_") or sae.cfg["architecture"].endswith("crosscoder"):
            raise SettingError(f"SAELens has no {sae.cfg['architecture']}")
        write_saelens(sae, options.out)
        return f"{options.out} opens with sae_lens.SAE.load_from_disk"
    from saes.index.storage import read_summary

    summary = read_summary(options.sae)
    from rich.console import Console
    from rich.progress import Progress

    from saes.formats.neuronpedia import Names, export_neuronpedia
    from saes.index.feature_index import FeatureIndex
    from saes.storage import load_sae
    from workbench.model import load_model

    names = Names.of(summary, options.source_set, options.release, options.creator)
    sae, index = load_sae(options.sae), FeatureIndex.open(options.sae)
    model = load_model(options.model or summary.model)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("exporting", total=summary.n_latents)
        n = export_neuronpedia(
            sae, index, model, options.out, names, on_progress=lambda done: bar.update(task, completed=done)
        )
    return f"{summary.n_latents:,} features and {n:,} activations in {options.out}"


def run_import(options: ImportOptions) -> str:
    _check(options.source, options.out)
    from saes.formats.importing import import_sae

    sae = import_sae(options.source, options.out, site=options.site, model=options.model)
    cfg = sae.cfg
    return f"{cfg['architecture']} SAE, {cfg['d_in']} to {cfg['d_sae']}, at {sae.metadata['hook_name']}: {options.out}"


def _check(source: Path, out: Path) -> None:
    """What is wrong with the directories, said before anything heavy is imported."""
    from workbench.errors import DamagedFile, SettingError

    if not source.is_dir():
        raise DamagedFile(f"{source} is not a directory")
    if out.exists():
        raise SettingError(f"{out} is there already; give another --out")
