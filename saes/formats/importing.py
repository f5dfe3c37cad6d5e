"""Bring an SAE that another tool saved into a directory of ours."""

from pathlib import Path

from saes.formats.dictionary_learning import is_dictionary_learning, read_dictionary_learning
from saes.formats.portable import PortableSAE, read_saelens, write_saelens
from saes.formats.sparsify import is_sparsify, read_sparsify
from saes.storage import WEIGHTS_FILE
from workbench.errors import DamagedFile, SettingError


def import_sae(source: Path, out: Path, *, site: str | None = None, model: str | None = None) -> PortableSAE:
    """Read `source`, in whichever of the known formats it is, and write it to `out` in SAELens' format.

    `site` and `model` are where it belongs, for a file that does not say, or says it wrong. Raises `DamagedFile`,
    `SettingError` if no site is known or `out` exists, and `OSError`.
    """
    if out.exists():
        raise SettingError(f"{out} is there already; give another --out")
    sae = read_foreign(source).placed(site, model)
    write_saelens(sae, out)
    return sae


def read_foreign(directory: Path) -> PortableSAE:
    """An SAE in the format of SAELens, sparsify or dictionary_learning. Raises `DamagedFile`."""
    if not directory.is_dir():
        raise DamagedFile(f"{directory} is not a directory")
    if (directory / WEIGHTS_FILE).is_file():
        return read_saelens(directory)
    if is_sparsify(directory):
        return read_sparsify(directory)
    if is_dictionary_learning(directory):
        return read_dictionary_learning(directory)
    known = "sae_weights.safetensors (SAELens), sae.safetensors (sparsify) or ae.safetensors (dictionary_learning)"
    raise DamagedFile(f"{directory} is not the directory of one SAE: it should hold {known}")
