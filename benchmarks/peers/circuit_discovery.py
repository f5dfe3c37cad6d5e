"""auto-circuit's side of `benchmarks/circuit_discovery.py`; run in an environment of its own."""

import json
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from support.sides import measured, serve

warnings.filterwarnings("ignore")

from auto_circuit.data import PromptDataLoader, PromptDataset  # noqa: E402
from auto_circuit.prune import run_circuits  # noqa: E402
from auto_circuit.prune_algos.ACDC import acdc_prune_scores  # noqa: E402
from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores  # noqa: E402
from auto_circuit.types import PatchType  # noqa: E402
from auto_circuit.utils.ablation_activations import src_ablations  # noqa: E402
from auto_circuit.utils.graph_utils import patchable_model  # noqa: E402
from transformer_lens import HookedTransformer, HookedTransformerConfig  # noqa: E402
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402


class Peer:
    """A model made patchable, and prompts; each method is a work that leaves its outcome in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = json.loads((folder / "settings.json").read_text())
        self.model = load(folder / "model")
        self.model.edges = in_order(self.model)
        prompts = load_file(folder / "prompts.safetensors")
        answers, wrong = (list(prompts[name][:, None]) for name in ("answers", "distractors"))
        self.clean, self.corrupted = prompts["clean"], prompts["corrupted"]
        dataset = PromptDataset(self.clean, self.corrupted, answers, wrong)
        self.loader = PromptDataLoader(dataset, self.clean.shape[1], 0, batch_size=len(self.clean), shuffle=False)

    def works(self):
        searches = {work: partial(self.acdc, work) for work in self.settings["thresholds"]}
        return {"eap": self.eap, "ig": self.ig, "curve": self.curve, **searches}

    def eap(self):
        scores, cost = measured(lambda: self.gradient(mask_val=0.0))
        self.keep_scores("eap", scores)
        return {**cost, "buffer": 2 * src_ablations(self.model, self.corrupted).nbytes}

    def ig(self):
        samples = self.settings["points"] - 1  # it adds one
        scores, cost = measured(lambda: self.gradient(integrated_grad_samples=samples))
        self.keep_scores("ig", scores)
        return cost

    def gradient(self, **which):
        options = {"grad_function": "logit", "answer_function": "avg_diff"}
        self.model.zero_grad()
        return mask_gradient_prune_scores(self.model, self.loader, None, **options, **which)

    def curve(self):
        saved = load_file(self.folder / "scores.safetensors")["values"]
        scores = {name: -saved[rows, :width].reshape(shape) for name, rows, width, shape in layout(self.model)}
        counts = self.settings["counts"]
        outputs, cost = measured(lambda: run_circuits(self.model, self.loader, counts, scores, PatchType.TREE_PATCH))
        logits = torch.stack([next(iter(batch.values())) for batch in outputs.values()])
        save_file({"logits": logits.contiguous()}, self.folder / "peer.curve.safetensors")
        return cost

    def acdc(self, work):
        base, exponent = self.settings["thresholds"][work]
        options = {"tao_exps": [exponent], "tao_bases": [base]}
        scores, cost = measured(lambda: acdc_prune_scores(self.model, self.loader, None, **options))
        self.keep_scores(work, scores)
        return {**cost, "passes": len(self.model.edges)}

    def keep_scores(self, work, scores) -> None:
        parts = layout(self.model)
        values = torch.zeros(parts[-1][1][-1] + 1, parts[-1][2])  # the logits are the last, and read everything
        for name, rows, width, _ in parts:
            values[rows, :width] = scores[name].reshape(len(rows), width)
        save_file({"values": values}, self.folder / f"peer.{work}.safetensors")


def load(folder: Path):
    source = AutoModelForCausalLM.from_pretrained(folder)
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
    return patchable_model(model.eval(), factorized=True, slice_output="last_seq", separate_qkv=True)


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
    return sorted(found, key=lambda part: part[1])


def in_order(model):
    """Its edges in the published order: from the last destination to the first, for each the latest source first.

    The peer has them in a set, so that within a stage it would visit them in another order each time.
    """
    rows = {name: numbers for name, numbers, _, _ in layout(model)}
    number = {edge: (rows[edge.dest.module_name][edge.dest.head_idx or 0], edge.src.src_idx) for edge in model.edges}
    return sorted(model.edges, key=number.get, reverse=True)


def main() -> None:
    torch.set_num_threads(1)
    serve(Peer(Path(sys.argv[1])).works())


if __name__ == "__main__":
    main()
