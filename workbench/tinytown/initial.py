"""A language model of Tinytown before it has read anything: its architecture, and weights that soon learn to copy."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

from workbench.tinytown.language import BOS, Language
from workbench.tinytown.options import TrainOptions

INITIAL_STD = 0.08
ROPE_THETA = 500.0
"""Base of the rotary frequencies: half of them turn within a context of a hundred tokens."""
LEAN = 20.0
"""Attention logit with which the first heads look at the tokens before."""
WINDOWS = 8
"""The sliding window of a Gemma 2, in every other layer, fits so many times into the context."""


def new_model(options: TrainOptions) -> PreTrainedModel:
    """A model with random weights, on the GPU if there is one (see `initialise`)."""
    model = AutoModelForCausalLM.from_config(new_config(options))
    initialise(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def new_config(options: TrainOptions) -> PreTrainedConfig:
    """A Llama; or a Gemma 2, which differs in norms after each sublayer, soft caps, and a sliding window."""
    language = Language()
    shared = {
        "vocab_size": len(language.words),
        "hidden_size": options.d_model,
        "intermediate_size": options.d_mlp,
        "num_hidden_layers": options.n_layers,
        "num_attention_heads": options.n_heads,
        "num_key_value_heads": options.n_kv_heads or options.n_heads,
        "max_position_embeddings": options.context,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "initializer_range": INITIAL_STD,
        "bos_token_id": language.ids[BOS],
        "eos_token_id": language.ids[BOS],
        "pad_token_id": None,
        "use_cache": True,
    }
    if options.architecture == "llama":
        return LlamaConfig(**shared)
    d_head = options.d_model // options.n_heads
    window = options.context // WINDOWS
    return Gemma2Config(**shared, head_dim=d_head, query_pre_attn_scalar=d_head, sliding_window=window)


@torch.no_grad()
def initialise(model: PreTrainedModel) -> None:
    """Weights from which induction is learned within half a million tokens, not tens of millions.

    They start about as large as training makes them. MLPs start by writing nothing. Attention starts by copying what it
    attends to: the output projection is a part of the value projection, transposed; a smaller part in the first layer,
    so that a token stays louder than its neighbours; and from the third layer on half of the heads suppress it instead.
    The second layer leans towards tokens like the one it looks from (keys resemble queries), and biases lean two heads
    of the first layer towards the token before and the one before that. What to copy, where from and what for is left
    to learn.

    Heads of a group share the value that they copy; their key resembles the sum of their queries, and one of them
    leans. Where a norm follows a sublayer, that norm says how much is written.
    """
    for number, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        group, size = attention.num_key_value_groups, attention.head_dim
        part = 0.15 if number == 0 else 0.5
        values = attention.v_proj.weight.unflatten(0, (-1, 1, size)).expand(-1, group, -1, -1).flatten(0, 2)
        attention.o_proj.weight.copy_(part * values.T)
        if number == 1:
            queries = attention.q_proj.weight.unflatten(0, (-1, group, size)).sum(1).flatten(0, 1) / group**0.5
            attention.k_proj.weight.copy_(0.5 * queries + 0.75**0.5 * attention.k_proj.weight)
        if number > 1:
            attention.o_proj.weight[:, attention.o_proj.in_features // 2 :] *= -1
        for bias in (attention.q_proj.bias, attention.k_proj.bias):
            nn.init.normal_(bias, std=0.1)
        if model.config.model_type == "gemma2":  # whose norms multiply by 1 + their weight
            nn.init.constant_(layer.post_attention_layernorm.weight, -0.5 if number == 0 else 0)
            nn.init.constant_(layer.post_feedforward_layernorm.weight, -1)
        else:
            nn.init.zeros_(layer.mlp.down_proj.weight)
    first = model.model.layers[0].self_attn
    leaning = range(0, model.config.num_attention_heads, first.num_key_value_groups)
    for head, distance in zip(leaning, (1, 2), strict=False):
        _lean_back(first, head, distance)


def _lean_back(attention: nn.Module, head: int, distance: int, frequencies: int = 6) -> None:
    """Set the query and key biases of a head so that the token `distance` back gets about `LEAN` as attention logit.

    Rotary positions turn query and key apart by an angle per frequency that grows with their distance. The key bias is
    the query bias turned the other way by so many steps, so that the two agree at that distance; only the fastest
    frequencies take part, so that they agree nowhere else.
    """
    size = attention.head_dim
    frequencies = min(frequencies, size // 2)
    angles = ROPE_THETA ** (-2 / size * torch.arange(frequencies))
    query = torch.polar(torch.tensor((LEAN * size**0.5 / frequencies) ** 0.5), 2 * torch.pi * torch.rand(frequencies))
    key = query * torch.exp(1j * distance * angles)
    group = attention.num_key_value_groups
    for bias, turned, number in ((attention.q_proj.bias, query, head), (attention.k_proj.bias, key, head // group)):
        ours = bias[number * size : (number + 1) * size]
        ours.zero_()
        ours[:frequencies], ours[size // 2 :][:frequencies] = turned.real, turned.imag
