"""Circuit discovery against auto-circuit 1.0.1, in processor seconds and bytes.

    python benchmarks/circuit_discovery.py [--json] [--rounds 3] [--peer PYTHON] [--only eap ig curve acdc acdc-dense]
    python benchmarks/circuit_discovery.py --rounds 1 --only acdc-gpt2

Both sides work on the same GPT-2 of random weights and the same random prompts on one thread, alternately, each in a
process of its own that loads once; only the work is measured. At the size of GPT-2 small:

* `eap`: edge attribution patching, the peer's `mask_gradient_prune_scores` at mask 0.
* `ig`: integrated gradients of the edge masks, at 5 points: the peer's only integrated gradients. That is another
  quantity than EAP-IG, which goes from the corrupted to the clean embedding; `mask_gradient` is ours. EAP-IG itself
  (`eap_ig_inputs`) runs beside it with as many gradients, and is compared by time and memory alone.
* `curve`: MIB's faithfulness curve, ten circuits ranked by the same scores.

ACDC is on a smaller model: `acdc` at a threshold that keeps 4% of the edges, about as many as published circuits have;
`acdc-dense` at one that keeps 11%, where no node falls away and every edge has to be tested. `acdc-gpt2`, which is only
done if asked for, as the peer needs half an hour, is at the size of GPT-2 small, but for 5,000 tokens instead of 50,257
and one pair of prompts of 4 tokens; 1.8% of its 32,491 edges are kept. Both sides take the edges in the published order
and must keep the same ones. Scores must agree to 1e-4 of the largest, logits to 1e-4.

The peer needs an environment of its own, which `--peer` names; by default it is made in `build/peers/auto_circuit`,
from PyPI. Memory is read from /proc, so the benchmark needs Linux.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.pairs import Comparison, figures, report
from support.sides import Side, measured, serve
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config

from circuits.acdc import acdc
from circuits.experiment import Experiment
from circuits.faithfulness import MIB_SIZES, faithfulness
from circuits.graph import transformer_graph
from circuits.scores.eap import eap
from circuits.scores.gradients import at_gates
from circuits.scores.ig import eap_ig_inputs
from circuits.scores.result import EdgeScores
from workbench.metrics import KL, LOGIT_DIFFERENCE
from workbench.model import load_model
from workbench.prompts import PromptPairs

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / "build" / "peers" / "auto_circuit"
TORCH = f"torch=={torch.__version__.partition('+')[0]}"  # the same on both sides
PACKAGES = (TORCH, "auto-circuit==1.0.1", "transformer-lens<3", "attrs", "blobfile", "lxml")
SUBJECTS: dict[str, dict[str, Any]] = {
    "GPT-2 small": {"config": GPT2Config(), "prompts": 10, "length": 15},
    "4 layers of 6 heads": {
        "config": GPT2Config(n_layer=4, n_head=6, n_embd=192, vocab_size=1000, initializer_range=0.08),
        "prompts": 4,
        "length": 8,
    },
    "GPT-2 small, few tokens": {
        "config": GPT2Config(vocab_size=5000, initializer_range=0.08),
        "prompts": 1,
        "length": 4,
    },
}
WORKS = {
    "eap": "GPT-2 small",
    "ig": "GPT-2 small",
    "curve": "GPT-2 small",
    "acdc": "4 layers of 6 heads",
    "acdc-dense": "4 layers of 6 heads",
    "acdc-gpt2": "GPT-2 small, few tokens",
}
"""What each is done on."""
LONG = "acdc-gpt2"
"""Only done if asked for."""
POINTS = 5
"""Of integrated gradients."""
THRESHOLDS = {"acdc": (1, -2), "acdc-dense": (3, -3), "acdc-gpt2": (2.9988, -3)}
"""In nats, as the peer takes them: a number times a power of ten. The last is 5e-6 from the nearest effect that is
compared with it, as the two sides differ by 1e-6."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help="the Python of an environment with auto-circuit 1.0.1")
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=[work for work in WORKS if work != LONG])
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if options.ours:
        ours = Ours(options.ours)
        serve(ours.works())
        return
    peer = options.peer or str(environment())
    for name, subject in SUBJECTS.items():
        works = [work for work in options.only if WORKS[work] == name]
        if not works:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prepare(folder, **subject)
            with (
                Side(peer, str(HERE / "peers" / "circuit_discovery.py"), str(folder)) as theirs,
                Side(sys.executable, str(HERE / "circuit_discovery.py"), "--ours", str(folder)) as ours,
            ):
                for work in works:
                    for comparison in compare(folder, {"ours": ours, "peer": theirs}, work, options.rounds):
                        report(comparison, options.json)


def prepare(folder: Path, config: GPT2Config, prompts: int, length: int) -> None:
    """The model, the prompts, the scores that both sides rank edges by for the curve, and settings."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokens = torch.randint(0, config.vocab_size, (2, prompts, length))
    answers = torch.randint(0, config.vocab_size, (2, prompts))
    columns = {"clean": tokens[0], "corrupted": tokens[1], "answers": answers[0], "distractors": answers[1]}
    save_file({name: column.contiguous() for name, column in columns.items()}, folder / "prompts.safetensors")
    values = eap(Experiment(load_model(folder / "model"), read_prompts(folder))).values
    save_file({"values": values}, folder / "scores.safetensors")
    edges = transformer_graph(config.n_layer, config.n_head).n_edges
    counts = [int(size * edges) for size in MIB_SIZES]
    settings = {"points": POINTS, "thresholds": THRESHOLDS, "counts": counts}
    (folder / "settings.json").write_text(json.dumps(settings))


def read_prompts(folder: Path) -> PromptPairs:
    return PromptPairs("random", **load_file(folder / "prompts.safetensors"))


def compare(folder: Path, sides: dict[str, Side], work: str, rounds: int) -> Iterator[Comparison]:
    """Ask both sides, in turn, and compare each number that both gave."""
    answers = []
    for turn in range(rounds):
        order = sorted(sides, reverse=turn % 2 == 0)  # the peer first
        answers.append({side: sides[side].ask(work) for side in order})
    same = agree(folder, work)
    for name in answers[0]["ours"]:
        of = name.partition(" of ")[0]  # "seconds of EAP-IG" is compared with the peer's seconds
        columns = [[answer[side][key] for answer in answers] for side, key in (("ours", name), ("peer", of))]
        yield Comparison(f"{work}, {name}", **figures(*columns), equal=same)


class Ours:
    """Our side: each method is a work that leaves its outcome in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.pairs = folder, load_model(folder / "model"), read_prompts(folder)

    def works(self) -> dict[str, Callable[[], dict[str, float]]]:
        searches = {work: partial(self.acdc, work) for work in THRESHOLDS}
        return {"eap": self.eap, "ig": self.ig, "curve": self.curve, **searches}

    def experiment(self, **options: Any) -> Experiment:
        """A new one each time: its runs are part of the work."""
        return Experiment(self.model, self.pairs, **options)

    def keep(self, work: str, **tensors: Tensor) -> None:
        save_file(tensors, self.folder / f"ours.{work}.safetensors")

    def eap(self) -> dict[str, float]:
        subject = self.experiment()
        scores, cost = measured(lambda: eap(subject))
        self.keep("eap", values=scores.values)
        (batch,) = subject.batches
        buffer = sum(state.nbytes for run in (batch.clean, batch.ablated) for state in run.states)
        return {**cost, "buffer": buffer}

    def ig(self) -> dict[str, float]:
        subject, other = self.experiment(), self.experiment()
        gates = [1 - point / (POINTS - 1) for point in range(POINTS)]
        scores, cost = measured(lambda: at_gates(subject, gates, "mask-gradient"))
        self.keep("ig", values=scores.values)
        _, inputs = measured(lambda: eap_ig_inputs(other, steps=POINTS))
        return cost | {f"{name} of EAP-IG": number for name, number in inputs.items()}

    def curve(self) -> dict[str, float]:
        subject = self.experiment()
        values = load_file(self.folder / "scores.safetensors")["values"]
        scores = EdgeScores(subject.graph, values, "eap", subject.facts)
        subject = self.experiment()
        found, cost = measured(lambda: faithfulness(subject, scores, ranking="absolute"))
        circuits = [subject.graph.prune(scores.top(count)) for count in found.n_edges]
        logits = [torch.cat([logits[0] for _, logits in subject.logits(edges[None])]) for edges in circuits]
        self.keep("curve", logits=torch.stack(logits), metric=found.metric)
        return cost

    def acdc(self, work: str) -> dict[str, float]:
        subject, (base, exponent) = self.experiment(metric=KL), THRESHOLDS[work]
        found, cost = measured(lambda: acdc(subject, base * 10.0**exponent))
        self.keep(work, values=found.circuit.edges.float())
        return {**cost, "passes": found.passes}


def agree(folder: Path, work: str) -> bool:
    """Whether both sides came to the same."""
    mine, theirs = (load_file(folder / f"{side}.{work}.safetensors") for side in ("ours", "peer"))
    if work == "curve":
        logits = mine["logits"], theirs["logits"]
        metric = torch.stack([LOGIT_DIFFERENCE(row, read_prompts(folder), row) for row in logits[1]])
        return torch.allclose(*logits, rtol=0, atol=1e-4) and torch.allclose(mine["metric"], metric, rtol=0, atol=1e-4)
    if work in THRESHOLDS:  # the peer leaves infinity where an edge was kept
        return torch.equal(mine["values"].bool(), theirs["values"].isinf())
    points = POINTS if work == "ig" else 1  # the peer adds them up, and counts its loss, not the metric
    off = (mine["values"] + theirs["values"] / points).abs().max()
    return bool(off <= 1e-4 * mine["values"].abs().max())


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
