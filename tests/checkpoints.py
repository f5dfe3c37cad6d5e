"""Tiny Hugging Face checkpoints with random weights, saved to disk for the tests: one for each kind of architecture."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

TEXT = "The cat sat on the mat, and the dog ran after the cat. Where is the café? It is near the old stone bridge."
VOCABULARY = 300
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
_SMALL = {
    **_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8}


def configs() -> dict[str, PreTrainedConfig]:
    """A configuration for each architecture: three layers, four heads, d_model 32, 64 positions."""
    return {
        "gpt2": GPT2Config(**_TOKENS, n_layer=3, n_head=4, n_embd=32, n_positions=64),
        "neox": GPTNeoXConfig(**_SMALL),
        "llama": LlamaConfig(**_GROUPED),
        "gemma2": Gemma2Config(**_GROUPED, query_pre_attn_scalar=8, sliding_window=4),
        "qwen3": Qwen3Config(**_GROUPED),
        "mixtral": MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
        "bloom": BloomConfig(**_TOKENS, n_layer=3, n_head=4, hidden_size=32),
    }


ARCHITECTURES = tuple(configs())


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few merges, as GPT-2's; its only special token is `<|endoftext|>`, and it adds none."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([TEXT] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def save_checkpoint(directory: Path, architecture: str, seed: int = 0) -> Path:
    """Save a model with random weights, every bias and norm included, and its tokenizer; return `directory`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(configs()[architecture])
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory
