"""SAEDashboard's side of `benchmarks/feature_index.py`; runs in an environment of its own.

    python dashboard.py FOLDER LATENTS MINIBATCH

FOLDER holds the model, the SAE and tokens.npy. Prints one JSON object: the seconds from tokens to the file on disk, the
file's bytes, and of each latent its density and the activations and contexts of its top group. Loading is not timed.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import SAE
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

SPAN = 11
"""Tokens that a sequence of SAEDashboard's default layout shows: five on each side."""


def main(folder: Path, n_latents: int, minibatch: int) -> None:
    torch.set_num_threads(1)
    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))
    model, sae = load_model(folder / "model"), SAE.load_from_disk(folder / "sae")
    sae.cfg.rescale_acts_by_decoder_norm = True  # its rows have unit norm, and the runner insists on folding them
    site = sae.cfg.metadata.hook_name
    config = SaeVisConfig(
        hook_point=site,
        features=list(range(n_latents)),
        minibatch_size_features=minibatch,
        minibatch_size_tokens=32,
        device="cpu",
        dtype="float32",
        verbose=False,
    )
    start = time.process_time()
    data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
    found = {latent: data.feature_data_dict[latent] for latent in range(n_latents)}
    text = json.dumps(found, default=plain)
    (folder / "dashboard.json").write_text(text)
    seconds = time.process_time() - start
    places = {
        context[start : start + SPAN].tobytes(): (number, start)
        for number, context in enumerate(np.load(folder / "tokens.npy"))
        for start in range(len(context) - SPAN + 1)
    }
    top = {latent: top_group(feature, places) for latent, feature in found.items()}
    density = {latent: feature.acts_histogram_data.title for latent, feature in found.items()}
    print(json.dumps({"seconds": seconds, "bytes": len(text.encode()), "top": top, "density": density}))


def top_group(feature, places: dict[bytes, tuple[int, int]]) -> list[list[float]]:
    """Context, position and activation of the token in the middle of each sequence, which spans `SPAN` tokens."""
    found = []
    for sequence in feature.sequence_data.seq_group_data[0].seq_data:
        context, position = places[np.array(sequence.token_ids, dtype=np.int64).tobytes()]
        found.append([context, position + SPAN // 2, float(sequence.feat_acts[SPAN // 2])])
    return found


def load_model(folder: Path) -> HookedTransformer:
    hf = GPT2LMHeadModel.from_pretrained(folder)
    shape = hf.config
    config = HookedTransformerConfig(
        n_layers=shape.n_layer,
        d_model=shape.n_embd,
        n_ctx=shape.n_positions,
        d_head=shape.n_embd // shape.n_head,
        n_heads=shape.n_head,
        d_mlp=4 * shape.n_embd,
        d_vocab=shape.vocab_size,
        act_fn="gelu_new",
        normalization_type="LN",
        eps=shape.layer_norm_epsilon,
        device="cpu",
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<bos>")
    tokenizer.save_pretrained(folder / "tokenizer")  # in the form that this release of transformers reads by itself
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    model = HookedTransformer(config, tokenizer=tokenizer, default_padding_side="right")
    model.load_and_process_state_dict(
        convert_gpt2_weights(hf, config), fold_ln=False, center_writing_weights=False, center_unembed=False
    )
    return model


def plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else vars(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
