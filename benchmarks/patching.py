"""Activation patching against transformer-lens' `patching.py`, on the same TransformerBridge.

    python benchmarks/patching.py [--json] [--rounds 5] [--full]

Random weights, one prompt pair of 20 tokens, one thread of the CPU; the sides alternate. Times are processor time of
the whole sweep, the run that is patched from included; printed are the medians over rounds, and as the ratio the median
of peer time / our time (above 1: ours is faster). `--full` adds, once, the sweep over all heads × positions at the size
of GPT-2 small, which takes the peer minutes.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from support.pairs import Comparison, figures, in_turn, report
from torch import Tensor
from transformer_lens import patching as peer_patching
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig

from workbench.metrics import LOGIT_DIFFERENCE
from workbench.model import HookedModel, wrap_model
from workbench.patching import activation_patching
from workbench.prompts import PromptPairs

LENGTH, TOLERANCE = 20, 1e-4
BUNDLED = LlamaConfig(
    vocab_size=1200,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
GPT2 = GPT2Config()


@dataclass(frozen=True)
class Case:
    """A model, a sweep, and the peer's function that does the same."""

    name: str
    config: PreTrainedConfig
    site: str
    by: tuple[str, ...]
    peer: Callable
    peer_order: tuple[int, ...]
    """Where the peer has our axes."""


RESID = ("blocks.*.hook_resid_pre", ("position",), peer_patching.get_act_patch_resid_pre, (0, 1))
HEADS = ("blocks.*.attn.hook_z", ("head",), peer_patching.get_act_patch_attn_head_out_all_pos, (0, 1))
CELLS = ("blocks.*.attn.hook_z", ("head", "position"), peer_patching.get_act_patch_attn_head_out_by_pos, (0, 2, 1))
VALUES = ("blocks.*.attn.hook_v", ("head", "position"), peer_patching.get_act_patch_attn_head_v_by_pos, (0, 2, 1))
CASES = (
    Case("heads × positions, bundled size (Llama, d 128, 4 layers)", BUNDLED, *CELLS),
    Case("values × positions, grouped-query, bundled size", BUNDLED, *VALUES),
    Case("layers × positions, GPT-2 small", GPT2, *RESID),
    Case("heads, GPT-2 small", GPT2, *HEADS),
)
FULL = Case("heads × positions, GPT-2 small", GPT2, *CELLS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a comparison")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="also the sweep that takes the peer minutes, once")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    peer_patching.tqdm = lambda steps: steps  # no progress bars between the figures
    for comparison in compare(options.rounds, options.full):
        report(comparison, options.json)


def compare(rounds: int, full: bool) -> Iterator[Comparison]:
    for case in CASES:
        yield race(case, rounds, warm_up=True)
    if full:
        yield race(FULL, 1, warm_up=False)


def race(case: Case, rounds: int, warm_up: bool) -> Comparison:
    torch.manual_seed(0)
    model = wrap_model(AutoModelForCausalLM.from_config(case.config).eval().requires_grad_(False))
    pairs = random_pair(case.config.vocab_size)

    def ours() -> Tensor:
        return activation_patching(model, pairs, case.site, case.by).raw

    def theirs() -> Tensor:
        return peer_sweep(model, pairs, case).permute(case.peer_order)

    results, seconds = zip(
        *(in_turn({"ours": ours, "peer": theirs}, turn) for turn in range(rounds + warm_up)), strict=True
    )
    equal = all((one["ours"] - one["peer"]).abs().max().item() <= TOLERANCE for one in results)
    timed = seconds[warm_up:]
    return Comparison(case.name, **figures([s["ours"] for s in timed], [s["peer"] for s in timed]), equal=equal)


def peer_sweep(model: HookedModel, pairs: PromptPairs, case: Case) -> Tensor:
    def metric(logits: Tensor) -> Tensor:
        return LOGIT_DIFFERENCE(logits[:, -1], pairs, logits[:, -1]).mean()

    with torch.no_grad():
        _, clean = model.bridge.run_with_cache(pairs.clean)
        return case.peer(model.bridge, pairs.corrupted, clean, metric)


def random_pair(n_tokens: int) -> PromptPairs:
    clean = torch.randint(n_tokens, (1, LENGTH))
    corrupted = clean.clone()
    corrupted[:, [3, 7]] = torch.randint(n_tokens, (1, 2))
    answers, distractors = torch.randint(n_tokens, (2, 1))
    return PromptPairs("random", clean, corrupted, answers, distractors)


if __name__ == "__main__":
    main()
