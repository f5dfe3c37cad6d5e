"""Two gloo processes come to what one process comes to, within rounding."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from saes import training
from saes.config import DIVIDE_LATENTS, TrainConfig
from saes.team import ALONE
from tests.saes.test_console import options
from tests.saes.together import step_through
from workbench.errors import SettingError
from workbench.files import read_json, read_tensors

ROWWISE = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard", "matching_pursuit")
STEPS = [("data", name, {}) for name in ROWWISE]
STEPS += [("latents", name, {}) for name in DIVIDE_LATENTS]
STEPS += [(parallel, "jumprelu", {"penalty": "tanh"}) for parallel in ("data", "latents")]
RUNS = [("data", "batchtopk"), ("latents", "topk")]
THREE = {"d_sae": 66, "batch_size": 126, "tokens": 20 * 126, "parallel": "latents"}
STOPPED = {"interrupted": "stops", "killed": "dies"}
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def named(parallel: str, architecture: str, changes: dict) -> str:
    return "-".join([parallel, architecture, *changes.values()])


def stepping(architecture: str, changes: dict) -> dict:
    sizes = {"d_sae": 64, "k": 3, "batch_size": 64, "tokens": 25 * 64, "buffer": 64, "dead_after": 640}
    strong = {"lr": 5e-3, "aux_coefficient": 0.5, "pre_act_coefficient": 1e-2, "l1_coefficient": 0.5}
    return {"architecture": architecture, "model": "tinytown", **sizes, **strong, **changes}


def running(config: TrainConfig, out: Path, **changes: object) -> dict:
    """The settings of a run as plain values."""
    return config.to_dict() | {"out": str(out)} | changes


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def config(checkpoint, text_file, home):
    """`config(out, architecture)`: a run of 24 steps in which many latents die."""

    def make(out: Path, architecture: str, **changes: object) -> TrainConfig:
        sizes = {"d_sae": 64, "k": 4, "tokens": 24 * 128, "batch_size": 128, "context": 32, "buffer": 2048}
        often = {"log_every": 2, "checkpoint_every": 5, "eval_tokens": 200, "dead_after": 512}
        place = {"site": "blocks.1.hook_resid_post", "model": str(checkpoint("gpt2")), "corpus": str(text_file)}
        return TrainConfig(out=out, architecture=architecture, device="cpu", **place | sizes | often | changes)

    return make


@pytest.fixture(scope="module")
def outcomes(home, config):
    """What two processes did in all the scenes of this page: their exit statuses, by scene."""
    tasks = [
        {
            "kind": "steps",
            "settings": stepping(architecture, changes) | {"parallel": parallel},
            "out": str(home / named(parallel, architecture, changes)),
        }
        for parallel, architecture, changes in STEPS
    ]
    for parallel, architecture in RUNS:
        plain = config(home, architecture, parallel=parallel)
        tasks.append({"kind": "train", "settings": running(plain, home / f"run-{parallel}")})
    cached = config(home, "topk")
    tasks.append({"kind": "train", "settings": running(cached, home / "cached", cache=str(home / "cache"))})
    scenes = [{"name": "all", "processes": 2, "tasks": tasks}]
    for name, how in STOPPED.items():
        cut = running(config(home, "topk", parallel="latents"), home / name)
        scenes.append(
            {"name": name, "processes": 2, "tasks": [{"kind": "train", "settings": cut, "stop": [1, 12, how]}]}
        )
    again = running(config(home, "topk", parallel="latents", resume=True), home / "interrupted")
    scenes.append(
        {"name": "resumed", "processes": 2, "tasks": [{"kind": "train", "settings": again | {"resume": True}}]}
    )
    uneven = running(config(home, "batchtopk", **THREE), home / "three")
    scenes.append({"name": "three", "processes": 3, "tasks": [{"kind": "train", "settings": uneven}]})
    for parallel in ("data", "latents"):
        refused = running(config(home, "topk", parallel=parallel), home / "refused")
        scenes.append({"name": parallel, "processes": 3, "tasks": [{"kind": "train", "settings": refused}]})
    (home / "scenes.json").write_text(json.dumps(scenes))
    done = subprocess.run(
        [sys.executable, "-m", "tests.saes.together", str(home / "scenes.json")],
        capture_output=True,
        text=True,
        check=False,
        env=ONE_THREAD,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found, done.stderr[-3000:], *(path.read_text() for path in home.glob("*.error*")))
    return found


def test_every_scene_went_as_it_should(outcomes):
    pairs = {"all": [0, 0], "interrupted": [0, 0], "killed": [1, 7], "resumed": [0, 0]}
    assert outcomes == pairs | {"three": [0, 0, 0], "data": [1, 1, 1], "latents": [1, 1, 1]}


@pytest.mark.parametrize(("parallel", "architecture", "changes"), STEPS, ids=[named(*case) for case in STEPS])
def test_steps_come_to_the_same_weights_moments_and_metrics(outcomes, home, tmp_path, parallel, architecture, changes):
    step_through(stepping(architecture, changes), ALONE, tmp_path)
    ours, alone = home / named(parallel, architecture, changes), tmp_path
    state, expected = (read_tensors(path / "state.safetensors") for path in (ours, alone))
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            state[name], tensor, rtol=1e-4, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    metrics, expected_metrics = (read_json(path / "metrics.json") for path in (ours, alone))
    assert metrics == [pytest.approx(line, rel=1e-4) for line in expected_metrics]


def outcome(out: Path) -> tuple[dict, list[dict], dict, list[str]]:
    """The files of a run: weights, metrics, report (but for its times), and their names."""
    report = read_json(out / "report.json")
    report["training"] = [report["training"][name] for name in ("steps", "tokens")]
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return read_tensors(out / "sae_weights.safetensors"), metrics, report, sorted(os.listdir(out))


def assert_same_outcome(out: Path, expected: Path) -> None:
    (weights, metrics, report, names), (own, *others) = outcome(out), outcome(expected)
    for name, tensor in own.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5)
    assert metrics == [pytest.approx(line, rel=1e-4) for line in others[0]]
    for name in ("training", "corpus", "sites"):
        assert report.pop(name) == others[1].pop(name)
    assert report == pytest.approx(others[1], rel=1e-3)
    assert names == others[2]
    assert (out / "cfg.json").read_bytes() == (expected / "cfg.json").read_bytes()


@pytest.fixture(scope="module")
def alone(home, config):
    """`alone(architecture)`: the directory of the run by one process."""
    made = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = home / f"alone-{architecture}"
            training.train(config(made[architecture], architecture))
        return made[architecture]

    return make


@pytest.mark.parametrize(("parallel", "architecture"), RUNS)
def test_a_run_leaves_the_files_of_a_run_by_one_process(outcomes, home, alone, parallel, architecture):
    assert_same_outcome(home / f"run-{parallel}", alone(architecture))


def test_three_processes_share_contexts_unevenly(outcomes, home, config):
    training.train(config(home / "three-alone", "batchtopk", **THREE))
    assert_same_outcome(home / "three", home / "three-alone")


def test_the_cache_that_two_processes_fill_is_that_of_one(outcomes, home, config, alone):
    assert_same_outcome(home / "cached", alone("topk"))
    config_alone = config(home / "cached-alone", "topk", cache=str(home / "cache-alone"))
    training.train(config_alone)
    assert os.listdir(home / "cache") == os.listdir(home / "cache-alone")
    shard = next(path.name for path in (home / "cache").glob("*.safetensors"))
    ours, theirs = (read_tensors(home / cache / shard) for cache in ("cache", "cache-alone"))
    torch.testing.assert_close(ours["rows"], theirs["rows"], rtol=1e-4, atol=1e-5)
    assert ours["positions"].equal(theirs["positions"])


def test_a_run_that_one_process_interrupts_is_resumed(outcomes, home, alone):
    assert_same_outcome(home / "interrupted", alone("topk"))


def test_where_a_process_dies_the_other_says_so_and_one_process_resumes(outcomes, home, config, alone):
    message = (home / "killed.error0").read_text()
    assert message.startswith("ProcessLost: another process of this run has ended")
    assert "\n" not in message
    assert (home / "killed" / "checkpoints" / "step_0000010").is_dir()
    training.train(config(home / "killed", "topk", resume=True))
    assert_same_outcome(home / "killed", alone("topk"))


def test_torchrun_is_interrupted_by_ctrl_c_and_resumed_by_one_process(config, home, alone):
    out = home / "typed"
    typed = config(out, "topk", tokens=24 * 128)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*command, "-m", "workbench", "sae", "train", *options(typed), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
    )
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate()
    assert complaint.count("workbench: interrupted after") == 1
    training.train(config(out, "topk", resume=True))
    assert_same_outcome(out, alone("topk"))


def test_what_cannot_be_divided_is_refused(outcomes, home, config, tmp_path):
    refusals = {(home / f"{name}.error{rank}").read_text() for name in ("data", "latents") for rank in range(3)}
    assert refusals == {
        "SettingError: batch_size must be a multiple of the number of processes (3), not 128",
        "SettingError: d_sae must be a multiple of the number of processes (3), not 64",
    }
    assert not (home / "refused").exists()
    with pytest.raises(SettingError, match="the latents of gated cannot be divided, only those of topk, batchtopk"):
        config(tmp_path, "gated", parallel="latents")
