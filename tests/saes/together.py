"""Processes that train together, as a script: together.py SCENES.json.

Everything is imported once; for each scene as many processes are forked as it says, which do its tasks in order.
A process writes what went wrong, and with which exit status it ended, beside the scenes.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from saes import training
from saes.config import TrainConfig
from saes.parallel.latents import LatentTeam
from saes.parallel.rows import RowTeam
from saes.team import Team
from saes.trainer import Trainer
from workbench.errors import WorkbenchError
from workbench.files import write_json, write_tensors
from workbench.interrupt import Interrupt

CPU = torch.device("cpu")
DEAD = [slice(44, 64), slice(20, 40)]
"""Latents that are declared dead before even and before odd steps: in one half of the dictionary, and in both."""


def step_through(settings: dict, team: Team, out: Path) -> None:
    """Train on rows of random directions, and keep the trainer's state, its SAE and metrics."""
    config = TrainConfig(site="", out=out, device="cpu", **settings)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(96, 12, generator=generator)
    fires = torch.rand(2048, 96, generator=generator) < 0.05
    rows = fires * torch.rand(2048, 96, generator=generator) @ directions + 0.5
    trainer = Trainer(config, rows, {}, team=team)
    metrics = []
    for step, batch in enumerate(rows.split(config.batch_size)[: config.steps]):
        trainer.last_fired[DEAD[step % 2]] = -config.dead_after
        metrics.append(vars(trainer.metrics(*trainer.step(batch))))
    state, sae = trainer.state(), trainer.folded()
    if team.leads:
        folded = {f"folded.{name}": tensor for name, tensor in sae.state_dict().items()}
        write_tensors(out / "state.safetensors", state | folded)
        write_json(out / "metrics.json", metrics)


def train(settings: dict, rank: int, stop: list | None = None) -> None:
    """A run; `stop` [rank, step, how]: that process is interrupted at that step, or ends without a word."""
    interrupt = Interrupt()

    def progress(metrics):
        if stop and [rank, metrics.step] == stop[:2]:
            os._exit(7) if stop[2] == "dies" else interrupt.request()

    training.train(TrainConfig(**settings | {"out": Path(settings["out"])}), on_progress=progress, interrupt=interrupt)


def act(task: dict, rank: int) -> None:
    if task["kind"] == "steps":
        team = {"data": RowTeam, "latents": LatentTeam}[task["settings"]["parallel"]](CPU)
        step_through(task["settings"], team, Path(task["out"]))
    else:
        train(task["settings"], rank, task.get("stop"))


def play(scene: dict, rank: int, home: Path) -> int:
    """Do a scene's tasks; the exit status."""
    size = scene["processes"]
    meeting = dist.FileStore(str(home / f"{scene['name']}.meeting"), size)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=size)
    try:
        for task in scene["tasks"]:
            act(task, rank)
    except WorkbenchError as error:
        (home / f"{scene['name']}.error{rank}").write_text(f"{type(error).__name__}: {error}")
        return 1
    return 0


def main(path: Path) -> None:
    outcomes = {}
    for scene in json.loads(path.read_text()):
        pids = []
        for rank in range(scene["processes"]):
            if not (pid := os.fork()):
                status = 99
                try:
                    status = play(scene, rank, path.parent)
                except Exception:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            pids.append(pid)
        outcomes[scene["name"]] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
