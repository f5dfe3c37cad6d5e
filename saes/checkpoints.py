"""Checkpoints: directories that appear whole or not at all, of which the last two are kept.

    checkpoints/step_0000500/
        cfg.json, sae_weights.safetensors   the SAE as it stood, as SAELens reads it
        trainer.safetensors                 its weights as trained, the optimiser's moments, when each latent last fired
        stream.safetensors                  the place in the corpus, the shuffling buffer, its random state
        checkpoint.json                     step, seconds, and whose activations these are

Where several SAEs are trained together, each has a directory of its own within the checkpoint.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from saes.finetuner import Finetuner
from saes.storage import save_sae
from saes.trainer import Trainer
from workbench.errors import DamagedFile, SettingError
from workbench.files import (
    read_json,
    read_tensors,
    remove_directory,
    remove_parts,
    whole_directory,
    write_json,
    write_tensors,
)

KEPT = 2
FACTS_FILE = "checkpoint.json"
STREAM_FILE = "stream.safetensors"
TRAINER_FILE = "trainer.safetensors"


class Checkpoints:
    """The checkpoints of a run in directory `run`."""

    def __init__(self, run: Path) -> None:
        self.path = run / "checkpoints"

    def all(self) -> list[Path]:
        """The checkpoints, earliest first."""
        found = (path for path in self.path.glob("step_*") if path.name.removeprefix("step_").isdigit())
        return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))

    def at(self, step: int) -> Path:
        return self.path / f"step_{step:07d}"

    def last(self) -> Path | None:
        return next(reversed(self.all()), None)

    def write(
        self,
        step: int,
        facts: Mapping[str, Any],
        stream: Mapping[str, Tensor],
        trainers: Mapping[str, Trainer | Finetuner],
    ) -> None:
        """Write the checkpoint of a step, then remove the oldest. Raises `OSError`; earlier ones are then untouched.

        Of several processes the one that leads writes, while the others `follow`.
        """
        with whole_directory(self.at(step)) as stage:
            for name, trainer in trainers.items():
                save_sae(trainer.folded(), stage / name)
                write_tensors(stage / name / TRAINER_FILE, trainer.state())
            write_tensors(stage / STREAM_FILE, stream)
            write_json(stage / FACTS_FILE, {"step": step, **facts})
        for old in self.all()[:-KEPT]:
            remove_directory(old)

    @staticmethod
    def follow(trainers: Iterable[Trainer]) -> None:
        """Give what this process has to the one that writes."""
        for trainer in trainers:
            trainer.folded()
            trainer.state()

    def stopped(self, error: OSError) -> str:
        """What to say of a run that could not write, and of what there is of it."""
        what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error)
        last = self.last()
        kept = f"the run is kept up to {last.name}" if last else "no checkpoint had been written"
        return f"{what}; {kept}, and can be resumed"

    def remove(self) -> None:
        """Remove them all, and what a killed process left of removing them."""
        remove_directory(self.path)
        remove_parts(self.path.parent)


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """What checkpoint.json says. Raises `DamagedFile`, and says how to go on from the checkpoint before."""
    path = checkpoint / FACTS_FILE
    try:
        facts = read_json(path)
    except DamagedFile as error:
        raise _damaged(checkpoint, error) from None
    if not isinstance(facts, dict) or not {"step", "model_fingerprint", "corpus_fingerprint"} <= facts.keys():
        raise _damaged(checkpoint, DamagedFile(f"{path} is not that of a checkpoint"))
    return facts


def check_origin(checkpoint: Path, names: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Raises `SettingError` if a checkpoint comes from another model or corpus; `names` says how each is called now."""
    begun, home = read_facts(checkpoint), checkpoint.parent.parent
    for what, name in names.items():
        if begun.get(f"{what}_fingerprint") != facts[f"{what}_fingerprint"]:
            raise SettingError(f"{name} is not the {what} that the run in {home} was begun with: it has changed")


def restore(checkpoint: Path, stream: Any, trainers: Mapping[str, Trainer | Finetuner]) -> None:
    """Bring a stream and trainers to where they were. Raises `DamagedFile` as `read_facts` does."""
    for name, target in ((STREAM_FILE, stream), *((f"{name}/{TRAINER_FILE}", one) for name, one in trainers.items())):
        try:
            target.restore(read_tensors(checkpoint / name))
        except DamagedFile as error:
            raise _damaged(checkpoint, error) from None
        except (KeyError, RuntimeError, ValueError) as error:
            what = str(error).splitlines()[0]
            raise _damaged(checkpoint, DamagedFile(f"{checkpoint / name} does not fit this run ({what})")) from None


def _damaged(checkpoint: Path, error: DamagedFile) -> DamagedFile:
    earlier = [path for path in Checkpoints(checkpoint.parent.parent).all() if path.name < checkpoint.name]
    further = f"the run goes on from {earlier[-1].name}" if earlier else "the run begins anew"
    return DamagedFile(f"{error}; without {checkpoint}, {further}")
