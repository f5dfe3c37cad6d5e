"""Building a feature index, against SAEDashboard 0.8: processor seconds and bytes on disk for each latent.

    python benchmarks/feature_index.py [--json] [--rounds 3] [--peer PYTHON] [--wide]

Both sides read the same contexts with the same GPT-2-like model of random weights (4 layers, d_model 128) and the same
top-k SAE of 1,024 latents, on one thread, alternately, each in a process of its own. Timed is everything from tokens to
files on disk. Ours indexes all latents, neighbours and co-activation included; the peer the first `--latents`, from
which its time a latent follows: it works feature by feature. Checked is that the same latents have the same density,
and that each activation in the peer's top group is in our example of the same context, unless 20 contexts beat it, or
the context reads the same as one of ours up to its peak and is left out for that.

The peer needs an environment of its own, which `--peer` names; by default it is made in `build/peers/dashboard`, from
PyPI. `--wide` instead indexes SAEs of 16,384 and 65,536 latents at d_in 768, ours only, and prints the memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harvest import word_tokenizer
from support.pairs import Comparison, figures, report, timed
from transformers import AutoModelForCausalLM, GPT2Config

from saes.architectures import ARCHITECTURES
from saes.index.build import build_index
from saes.index.examples import WINDOW
from saes.index.feature_index import FeatureIndex
from saes.sae import SAEConfig
from saes.storage import load_sae, save_sae
from workbench.corpus import PackedCorpus, open_corpus
from workbench.model import load_model

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / "build" / "peers" / "dashboard"
PACKAGES = ("sae-dashboard==0.8.0", "torch==2.13.0", "pyarrow<20", "pandas<3")
VOCABULARY, CONTEXT, CONTEXTS, K, MINIBATCH = 1200, 128, 128, 32, 64
SITE = "blocks.2.hook_resid_post"
TOLERANCE = 2e-3
"""SAEDashboard rounds activations to 3 or 4 decimals."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latents", type=int, default=MINIBATCH, help="latents that the peer works on")
    parser.add_argument("--peer", type=Path, help="the Python of an environment with sae-dashboard 0.8.0")
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if options.ours:
        print(json.dumps(index(options.ours)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.wide:
            for d_sae in (16_384, 65_536):
                print(json.dumps(wide(Path(folder), d_sae)), flush=True)
            return
        peer = options.peer or environment()
        prepare(Path(folder), d_model=128, d_sae=1024)
        for comparison in compare(Path(folder), peer, options.rounds, options.latents):
            report(comparison, options.json)


def compare(folder: Path, peer: Path, rounds: int, n_latents: int) -> list[Comparison]:
    commands = {
        "ours": [sys.executable, str(HERE / "feature_index.py"), "--ours", str(folder)],
        "peer": [str(peer), str(HERE / "peers" / "dashboard.py"), str(folder), str(n_latents), str(MINIBATCH)],
    }
    results: list[dict[str, Any]] = []
    for i in range(rounds):
        order = list(commands) if i % 2 else list(commands)[::-1]
        results.append({side: run(commands[side]) for side in order})
    equal = same(results[-1]["ours"], results[-1]["peer"], n_latents, np.load(folder / "tokens.npy"))
    comparisons = []
    for what in ("seconds", "bytes"):
        ours = [result["ours"][what] / result["ours"]["latents"] for result in results]
        theirs = [result["peer"][what] / n_latents for result in results]
        comparisons.append(Comparison(f"index, {what} a latent", **figures(ours, theirs), equal=equal))
    return comparisons


def run(command: list[str]) -> dict[str, Any]:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def same(ours: dict[str, Any], peer: dict[str, Any], n_latents: int, tokens: np.ndarray) -> bool:
    """Whether densities agree to the peer's rounding, its top activations are ours, and none is missing here."""
    for latent in map(str, range(n_latents)):
        percent = float(peer["density"][latent].split(" = ")[1].rstrip("%"))
        if abs(percent - 100 * ours["density"][latent]) > 1e-3:
            return False
        mine = dict(ours["top"][latent])
        weakest = min(map(max, mine.values()), default=0)
        for context, position, activation in peer["top"][latent]:
            if context in mine:
                if abs(mine[context][position] - activation) > TOLERANCE:
                    return False
            elif activation > weakest + TOLERANCE and not repeated(context, mine, tokens):
                return False
    return True


def repeated(context: int, mine: dict[int, list[float]], tokens: np.ndarray) -> bool:
    """Whether a context reads as one of ours does over the tokens up to its peak."""
    windows = [(other, slice(max(0, peak - WINDOW + 1), peak + 1)) for other, peak in peaks(mine)]
    return any(np.array_equal(tokens[other, window], tokens[context, window]) for other, window in windows)


def peaks(mine: dict[int, list[float]]) -> Iterator[tuple[int, int]]:
    return ((context, int(np.argmax(activations))) for context, activations in mine.items())


def index(folder: Path) -> dict[str, Any]:
    """Our side: index all latents, then say what was found."""
    model, sae, corpus = load_model(folder / "model"), load_sae(folder / "sae"), open_words(folder)
    build = lambda: build_index(sae, model, corpus, n_tokens=CONTEXTS * CONTEXT, out=folder / "sae")  # noqa: E731
    found, seconds = timed(build)
    rows = {context.tobytes(): number for number, context in enumerate(np.load(folder / "tokens.npy"))}
    records = found.latents(0, sae.cfg.d_sae)
    top = {
        record.latent: [[rows[np.array(e.tokens).tobytes()], e.activations] for e in record.top_examples]
        for record in records
    }
    size = sum(path.stat().st_size for path in (folder / "sae" / "features").iterdir())
    density = {record.latent: record.density for record in records}
    return {"seconds": seconds, "bytes": size, "latents": len(records), "top": top, "density": density}


def prepare(folder: Path, d_model: int, d_sae: int) -> None:
    """A model, an SAE, and a corpus of exactly the contexts in tokens.npy."""
    torch.manual_seed(0)
    shape = GPT2Config(
        vocab_size=VOCABULARY, n_layer=4, n_embd=d_model, n_head=d_model // 32, n_positions=CONTEXT, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    words = np.random.default_rng(0).integers(1, VOCABULARY, CONTEXTS * CONTEXT)
    document = " ".join(f"w{word}" for word in words)  # one document, so that no context is padded
    (folder / "words.txt").write_text(document)
    model, corpus = load_model(folder / "model"), open_words(folder)
    batches = [batch.tokens for batch in islice(corpus.batches(32), CONTEXTS // 32)]
    np.save(folder / "tokens.npy", torch.cat(batches).numpy())
    run = model.run(batches[0], capture=[SITE], stop_after=SITE)
    config = SAEConfig(d_model, d_sae, K, metadata={"hook_name": SITE, "model_name": "benchmark"})
    save_sae(ARCHITECTURES["topk"](config).initialise(run[SITE].flatten(0, 1).mean(0), seed=0), folder / "sae")


def open_words(folder: Path) -> PackedCorpus:
    return open_corpus(folder / "words.txt", word_tokenizer(), context=CONTEXT, bos=False)


def wide(folder: Path, d_sae: int) -> dict[str, Any]:
    """Processor seconds and peak memory of indexing a wide SAE."""
    folder = folder / str(d_sae)
    folder.mkdir()
    prepare(folder, d_model=768, d_sae=d_sae)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found: FeatureIndex = build_index(
        load_sae(folder / "sae"),
        load_model(folder / "model"),
        open_words(folder),
        n_tokens=CONTEXTS * CONTEXT,
        out=folder / "sae",
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "d_sae": d_sae,
        "tokens": found.summary.n_tokens,
        "seconds": time.process_time() - start,
        "gigabytes": peak / 1e6,
        "gigabytes_before": before / 1e6,
    }


def environment() -> Path:
    """The Python of the peer's environment, which is made if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
        (ENVIRONMENT / "ready").touch()
    return python


if __name__ == "__main__":
    main()
