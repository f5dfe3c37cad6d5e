"""auto-circuit's side of `benchmarks/circuit_discovery.py`; run in an environment of its own."""

import json
import sys
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")

from auto_circuit.data import PromptDataLoader, PromptDataset  # noqa: E402
from auto_circuit.prune import run_circuits  # noqa: E402
from auto_circuit.prune_algos.ACDC import acdc_prune_scores  # noqa: E402
from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores  # noqa: E402
from auto_circuit.types import PatchType  # noqa: E402
from auto_circuit.utils.graph_utils import patchable_model  # noqa: E402
from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: E402
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


def main() -> None:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    model, prompts = load(folder)
    n = len(prompts["clean"])
    answers, wrong = (list(prompts[name][:, None]) for name in ("answers", "distractors"))
    dataset = PromptDataset(prompts["clean"], prompts["corrupted"], answers, wrong)
    loader = PromptDataLoader(dataset, prompts["clean"].shape[1], 0, batch_size=n, shuffle=False)
    options = {"grad_function": "logit", "answer_function": "avg_diff"}
    start = time.process_time()
    if what == "eap":
        scores = mask_gradient_prune_scores(model, loader, None, mask_val=0.0, **options)
    elif what == "acdc":
        scores = acdc_prune_scores(model, loader, None, tao_exps=[int(sys.argv[3])], tao_bases=[int(sys.argv[4])])
    else:
        saved = load_file(folder / "scores.safetensors")["values"]
        scores = {name: -saved[rows, :width].reshape(shape) for name, rows, width, shape in layout(model)}
        start = time.process_time()
        counts = json.loads(sys.argv[3])
        outputs = run_circuits(model, loader, counts, scores, PatchType.TREE_PATCH)
    seconds = time.process_time() - start
    if what == "curve":
        logits = torch.stack([next(iter(batch.values())) for batch in outputs.values()])
        save_file({"logits": logits.contiguous()}, folder / "peer.safetensors")
    else:
        rows = max(rows[-1] for _, rows, _, _ in layout(model)) + 1
        values = torch.zeros(rows, max(width for _, _, width, _ in layout(model)))
        for name, rows, width, _ in layout(model):
            values[rows, :width] = scores[name].reshape(len(rows), width)
        save_file({"values": values, "order": order(model)}, folder / "peer.safetensors")
    print(json.dumps({"seconds": seconds}))


def load(folder: Path):
    source = AutoModelForCausalLM.from_pretrained(folder / "model")
    c = source.config
    cfg = HookedTransformerConfig(
        n_layers=c.n_layer,
        d_model=c.n_embd,
        n_ctx=c.n_positions,
        d_head=c.n_embd // c.n_head,
        n_heads=c.n_head,
        d_mlp=4 * c.n_embd,
        d_vocab=c.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=c.layer_norm_epsilon,
        use_attn_result=True,
        use_split_qkv_input=True,
        use_hook_mlp_in=True,
    )
    model = HookedTransformer(cfg)
    model.load_state_dict(convert_gpt2_weights(source, cfg), strict=False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    patchable = patchable_model(model.eval(), factorized=True, slice_output="last_seq", separate_qkv=True)
    return patchable, load_file(folder / "prompts.safetensors")


def layout(model):
    """Of each module with destinations: its name, their numbers in our graph, how many sources, the mask's shape."""
    found, heads = [], model.cfg.n_heads
    a_layer = 3 * heads + 1
    for wrapper in model.dest_wrappers:
        name, shape = wrapper.module_name, tuple(wrapper.patch_mask.shape)
        first = int(name.split(".")[1]) * a_layer
        for number, part in enumerate(("hook_q_input", "hook_k_input", "hook_v_input")):
            if name.endswith(part):
                rows = list(range(first + number * heads, first + (number + 1) * heads))
        if name.endswith("hook_mlp_in"):
            rows = [first + 3 * heads]
        elif name.endswith("hook_resid_post"):
            rows = [first + a_layer]
        found.append((name, rows, shape[-1], shape))
    return found


def order(model) -> torch.Tensor:
    """(destination, source) of every edge, in the order in which ACDC visits them."""
    rows = {name: numbers for name, numbers, _, _ in layout(model)}
    edges = sorted(model.edges, key=lambda edge: edge.dest.layer, reverse=True)
    pairs = [(rows[edge.dest.module_name][edge.dest.head_idx or 0], edge.src.src_idx) for edge in edges]
    return torch.tensor(pairs)


if __name__ == "__main__":
    main()
