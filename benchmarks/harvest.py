"""Harvest throughput, against the bare Hugging Face forward to the same depth, TransformerBridge's cache, and SAELens.

    python benchmarks/harvest.py [--json] [--rounds 15]

Every comparison reads the same packed contexts with the same random weights, on one thread of the CPU, and the sides
alternate. Times are processor time, so that other work on the machine disturbs them little; printed are the medians
over rounds, and as the ratio the median of peer time / our time (above 1: ours is faster).
"""

import argparse
import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from support.pairs import Comparison, figures, in_turn, report
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from workbench.activations import harvest, shuffled_activations
from workbench.corpus import PackedCorpus, TokenBatch, open_corpus
from workbench.model import HookedModel, wrap_model

VOCABULARY, CONTEXT, STEPS, TOLERANCE = 1200, 128, 8, 1e-5


@dataclass(frozen=True)
class Case:
    """A model's shape, the depth to harvest at, and the work of one round."""

    name: str
    config: GPT2Config | LlamaConfig
    layer: int
    batch_size: int
    batches: int

    @property
    def site(self) -> str:
        return f"blocks.{self.layer}.hook_resid_post"

    @property
    def rows(self) -> int:
        return self.batches * self.batch_size * CONTEXT


CASES = (
    Case(
        "bundled size (Llama, d 128, 3 of 4 layers)",
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
        ),
        layer=2,
        batch_size=32,
        batches=4,
    ),
    Case(
        "GPT-2 small (d 768, 3 of 6 layers)",
        GPT2Config(vocab_size=VOCABULARY, n_layer=6, n_embd=768, n_head=12, n_positions=CONTEXT),
        layer=2,
        batch_size=8,
        batches=2,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for case in CASES:
        for comparison in compare(case, options.rounds):
            report(comparison, options.json)


def compare(case: Case, rounds: int) -> Iterator[Comparison]:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(case.config).eval().requires_grad_(False)
    tokenizer = word_tokenizer()
    model, bare = wrap_model(hf, tokenizer), truncated(hf, case.layer + 1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = open_corpus(random_words(Path(folder)), tokenizer, context=CONTEXT)
        warm = list(corpus.batches(case.batch_size))  # tokenised once; from here on the corpus only packs
    sample = warm[: case.batches]

    def peer_forward() -> list[Tensor]:
        return [bare(batch.tokens) for batch in sample]

    def peer_cache() -> list[Tensor]:
        return [cached(model, batch.tokens, case) for batch in sample]

    once = harvest(model, corpus, [case.site], batch_size=case.batch_size)
    ours = [batch.activations[case.site] for batch in islice(once, case.batches)]
    equal = {peer: all(map(close, ours, peer())) for peer in (peer_forward, peer_cache)}

    endless = harvest(model, corpus, [case.site], batch_size=case.batch_size, repeat=True)
    ours_harvest = lambda: list(islice(endless, case.batches))  # noqa: E731
    ours_rows, peer_rows = shuffled_rows(model, corpus, case), sae_lens_rows(model, warm, case)
    for name, mine, peer in (
        ("harvest / bare forward", ours_harvest, peer_forward),
        ("harvest / run_with_cache", ours_harvest, peer_cache),
        ("shuffled rows / bare forward", ours_rows, peer_forward),
        ("shuffled rows / SAELens store", ours_rows, peer_rows),
    ):
        # SAELens' store serves what run_with_cache returns, in an order of its own
        yield race(f"{name}, {case.name}", mine, peer, equal.get(peer, equal[peer_cache]), rounds)


def race(name: str, ours: Callable, peer: Callable, equal: bool, rounds: int) -> Comparison:
    seconds = [in_turn({"ours": ours, "peer": peer}, turn)[1] for turn in range(rounds + 1)]
    warm = seconds[1:]
    return Comparison(name, **figures([s["ours"] for s in warm], [s["peer"] for s in warm]), equal=equal)


def truncated(hf: PreTrainedModel, depth: int) -> Callable[[Tensor], Tensor]:
    """The bare model, with its default attention, cut after `depth` layers: tokens to the residual stream there."""
    base = copy.deepcopy(hf.base_model)
    layers, norm = ("h", "ln_f") if hasattr(base, "h") else ("layers", "norm")
    setattr(base, layers, getattr(base, layers)[:depth])
    setattr(base, norm, nn.Identity())

    def forward(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return base(tokens, use_cache=False).last_hidden_state

    return forward


def cached(model: HookedModel, tokens: Tensor, case: Case) -> Tensor:
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(tokens, names_filter=[case.site], stop_at_layer=case.layer + 1)
    return cache[case.site]


def shuffled_rows(model: HookedModel, corpus: PackedCorpus, case: Case) -> Callable[[], list[Tensor]]:
    """Serve as many rows as one round of forwards makes, from a buffer of twice that: one refill a round."""
    step = case.rows // STEPS
    stream = shuffled_activations(
        model,
        corpus,
        case.site,
        rows_per_step=step,
        buffer_rows=2 * case.rows,
        n_tokens=10**12,
        seed=0,
        skip_special=False,
        batch_size=case.batch_size,
    )
    return lambda: [next(stream) for _ in range(STEPS)]


def sae_lens_rows(model: HookedModel, batches: list[TokenBatch], case: Case) -> Callable[[], list[Tensor]]:
    """The same from SAELens' activation store, which reads the same contexts from a tokenised dataset."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore

    step = case.rows // STEPS
    contexts = [row for batch in batches for row in batch.tokens.tolist()]
    store = ActivationsStore(
        model=model.bridge,
        dataset=Dataset.from_dict({"tokens": contexts}).with_format("torch"),
        streaming=False,
        hook_name=case.site,
        hook_head_index=None,
        context_size=CONTEXT,
        d_in=model.info.d_model,
        n_batches_in_buffer=2 * case.batches * case.batch_size,  # its unit is the context
        total_training_tokens=10**9,
        store_batch_size_prompts=case.batch_size,
        train_batch_size_tokens=step,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )
    return lambda: [store.next_batch() for _ in range(STEPS)]


def close(ours: Tensor, peer: Tensor) -> bool:
    return torch.allclose(ours, peer, atol=TOLERANCE, rtol=0)


def word_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({"<bos>": 0} | {f"w{i}": i for i in range(1, VOCABULARY)}, unk_token="<bos>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>")


def random_words(folder: Path) -> Path:
    """2,000 documents of 20 to 400 random words."""
    rng = np.random.default_rng(0)
    words = (rng.integers(1, VOCABULARY, rng.integers(20, 400)) for _ in range(2000))
    lines = (json.dumps({"text": " ".join(f"w{i}" for i in document)}) for document in words)
    path = folder / "words.jsonl"
    path.write_text("\n".join(lines))
    return path


if __name__ == "__main__":
    main()
