"""Circuit discovery against auto-circuit 1.0.1: EAP, a faithfulness curve and ACDC, in processor seconds.

    python benchmarks/circuit_discovery.py [--json] [--rounds 3] [--peer PYTHON] [--only eap curve acdc]

Both sides work on the same GPT-2 of random weights and the same random prompts on one thread, alternately, each in a
process of its own; timed is the work, not the loading. EAP and the curve (ten circuits of MIB's sizes, ranked by the
same scores) are at the size of GPT-2 small; ACDC is on a model of 6 layers with 8 heads, as the peer would need days
for the other. Checked is that scores agree to 1e-4 of the largest, that the circuits' logits are the same, and that
ACDC's circuit is identical; it is given the peer's order of edges. EAP-IG's own code needs a GPU, and is not here.

The peer needs an environment of its own, which `--peer` names; by default it is made in `build/peers/auto_circuit`,
from PyPI.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.pairs import Comparison, figures, report, timed
from transformers import AutoModelForCausalLM, GPT2Config

from circuits.acdc import acdc
from circuits.experiment import Experiment
from circuits.faithfulness import MIB_SIZES
from circuits.scores.eap import eap
from circuits.scores.result import EdgeScores
from workbench.metrics import KL
from workbench.model import load_model
from workbench.prompts import PromptPairs

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / "build" / "peers" / "auto_circuit"
PACKAGES = ("auto-circuit==1.0.1", "transformer-lens<3", "attrs", "blobfile", "lxml")
SIZES: dict[str, dict[str, Any]] = {
    "eap": {"config": GPT2Config(), "prompts": 10, "length": 15},
    "curve": {"config": GPT2Config(), "prompts": 10, "length": 15},
    "acdc": {
        "config": GPT2Config(n_layer=6, n_head=8, n_embd=256, vocab_size=1000, initializer_range=0.08),
        "prompts": 4,
        "length": 8,
    },
}
THRESHOLD = (3, -3)
"""Of ACDC: 3e-3 nats."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", type=Path, help="the Python of an environment with auto-circuit 1.0.1")
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if options.ours:
        print(json.dumps(ours(Path(options.ours[0]), options.ours[1])))
        return
    peer = options.peer or environment()
    for what in options.only:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), **SIZES[what])
            for comparison in compare(Path(folder), peer, what, options.rounds):
                report(comparison, options.json)


def prepare(folder: Path, config: GPT2Config, prompts: int, length: int) -> None:
    """The model and the prompts, and for the curve the scores that both sides rank edges by."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "model")
    tokens = torch.randint(0, config.vocab_size, (2, prompts, length))
    answers = torch.randint(0, config.vocab_size, (2, prompts))
    columns = {"clean": tokens[0], "corrupted": tokens[1], "answers": answers[0], "distractors": answers[1]}
    save_file({name: column.contiguous() for name, column in columns.items()}, folder / "prompts.safetensors")
    values = eap(experiment(folder)).values
    save_file({"values": values}, folder / "scores.safetensors")


def experiment(folder: Path, **options: Any) -> Experiment:
    pairs = PromptPairs("random", **load_file(folder / "prompts.safetensors"))
    return Experiment(load_model(folder / "model"), pairs, **options)


def compare(folder: Path, peer: Path, what: str, rounds: int) -> list[Comparison]:
    extra = {"acdc": [str(THRESHOLD[1]), str(THRESHOLD[0])], "curve": [json.dumps(curve_counts(folder))], "eap": []}
    commands = {
        "peer": [str(peer), str(HERE / "peers" / "circuit_discovery.py"), str(folder), what, *extra[what]],
        "ours": [sys.executable, str(HERE / "circuit_discovery.py"), "--ours", str(folder), what],
    }
    run(commands["peer"])  # ACDC's order of edges is the peer's
    results = []
    for i in range(rounds):
        order = list(commands) if i % 2 else list(commands)[::-1]
        results.append({side: run(commands[side]) for side in order})
    equal = same(folder, what)
    found = [Comparison(f"{what}, seconds", **columns(results, "seconds"), equal=equal)]
    if what == "acdc":
        passes = [result["ours"]["passes"] for result in results]
        edges = [result["ours"]["edges"] for result in results]
        found.append(Comparison("acdc, passes one after the other", **figures(passes, edges), equal=equal))
    return found


def columns(results: list[dict[str, Any]], name: str) -> dict[str, float]:
    return figures(*([result[side][name] for result in results] for side in ("ours", "peer")))


def run(command: list[str]) -> dict[str, Any]:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def curve_counts(folder: Path) -> list[int]:
    edges = experiment(folder).graph.n_edges
    return [int(size * edges) for size in MIB_SIZES]


def ours(folder: Path, what: str) -> dict[str, Any]:
    """Our side: the work timed, its outcome left in the folder."""
    if what == "eap":
        subject = experiment(folder)
        scores, seconds = timed(lambda: eap(subject))
        save_file({"values": scores.values}, folder / "ours.safetensors")
        return {"seconds": seconds}
    if what == "acdc":
        subject = experiment(folder, metric=KL)
        order = load_file(folder / "peer.safetensors")["order"]
        found, seconds = timed(lambda: acdc(subject, THRESHOLD[0] * 10.0 ** THRESHOLD[1], order=order))
        save_file({"values": found.circuit.edges.float()}, folder / "ours.safetensors")
        return {"seconds": seconds, "passes": found.passes, "edges": subject.graph.n_edges}
    subject = experiment(folder)
    scores = EdgeScores(subject.graph, load_file(folder / "scores.safetensors")["values"], "eap", {})
    logits, seconds = timed(lambda: curve(subject, scores))
    save_file({"logits": logits}, folder / "ours.safetensors")
    return {"seconds": seconds}


def curve(subject: Experiment, scores: EdgeScores) -> torch.Tensor:
    """Logits of the best circuits of each size."""
    counts = [int(size * subject.graph.n_edges) for size in MIB_SIZES]
    circuits = [subject.graph.prune(scores.top(count)) for count in counts]
    return torch.stack([torch.cat([logits[0] for _, logits in subject.logits(edges[None])]) for edges in circuits])


def same(folder: Path, what: str) -> bool:
    mine, theirs = load_file(folder / "ours.safetensors"), load_file(folder / "peer.safetensors")
    if what == "curve":
        return torch.allclose(mine["logits"], theirs["logits"], atol=1e-4)
    if what == "acdc":  # the peer leaves infinity where an edge was kept
        return torch.equal(mine["values"].bool(), theirs["values"].isinf())
    largest = float(mine["values"].abs().max())
    return torch.allclose(mine["values"], -theirs["values"], rtol=0, atol=1e-4 * largest)


def environment() -> Path:
    """The Python of the peer's environment, which is made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        (ENVIRONMENT / "ready").touch()
    return python


if __name__ == "__main__":
    main()
