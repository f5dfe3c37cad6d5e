"""Transcoders with random weights, and ones that are exactly a model's own MLPs."""

import pytest
import torch
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from circuits.attribution_graph.transcoders import Transcoders, by_layer
from saes.architectures import ARCHITECTURES
from saes.sae import SAE, SAEConfig
from workbench.model import HookedModel

KINDS = ("topk_skip_transcoder", "jumprelu_transcoder", "skip_transcoder")
"""One for each layer of the tiny models: between them every activation function, with a skip and without."""


def random_transcoder(kind: str, layer: int, d_model: int, read: str = "ln2.hook_normalized") -> SAE:
    """Some five latents of forty active."""
    metadata = {"hook_name": f"blocks.{layer}.{read}", "hook_name_out": f"blocks.{layer}.hook_mlp_out"}
    k = 5 if kind.startswith("topk") else None
    cfg = SAEConfig(d_model, 40, k, apply_b_dec_to_input=False, d_out=d_model, metadata=metadata)
    sae = ARCHITECTURES[kind](cfg)
    generator = torch.Generator().manual_seed(layer)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.fill_(1.0)
        if kind == "skip_transcoder":
            sae.b_enc.sub_(2.0)
    return sae.requires_grad_(False)


def random_transcoders(model: HookedModel) -> Transcoders:
    """A random transcoder of another kind for each layer of a tiny model."""
    return by_layer([random_transcoder(kind, layer, model.info.d_model) for layer, kind in enumerate(KINDS)], model)


@pytest.fixture
def transcoders(model: HookedModel) -> Transcoders:
    return random_transcoders(model)


@pytest.fixture
def tokens() -> Tensor:
    """Nine tokens, the fourth of them special."""
    tokens = torch.randint(1, 300, (9,), generator=torch.Generator().manual_seed(3))
    tokens[3] = 0
    return tokens


@pytest.fixture(scope="session")
def relu_model() -> HookedModel:
    """Three layers with ReLU MLPs, LayerNorm and grouped-query attention, biases and norm weights at random."""
    config = TransformerBridgeConfig(
        n_layers=3,
        d_model=16,
        d_head=4,
        n_heads=4,
        n_key_value_heads=2,
        d_mlp=24,
        d_vocab=50,
        n_ctx=16,
        act_fn="relu",
        normalization_type="LN",
        seed=0,
    )
    bridge = TransformerBridge.boot_native(config, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in bridge.original_model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return HookedModel(bridge)


@pytest.fixture(scope="session")
def own_mlps(relu_model: HookedModel) -> Transcoders:
    """ReLU transcoders made of the MLPs' weights: a latent is a neuron, and nothing is left unexplained.

    They read the norm's output before its weights, so these go into the encoder.
    """
    made = []
    for layer, block in enumerate(relu_model.bridge.blocks):
        metadata = {"hook_name": f"blocks.{layer}.ln2.hook_normalized", "hook_name_out": f"blocks.{layer}.hook_mlp_out"}
        cfg = SAEConfig(16, 24, apply_b_dec_to_input=False, d_out=16, metadata=metadata)
        sae = ARCHITECTURES["transcoder"](cfg)
        norm = block.ln2.original_component
        with torch.no_grad():
            sae.W_enc.copy_(norm.weight[:, None] * block.mlp.W_in)
            sae.b_enc.copy_(block.mlp.b_in + norm.bias @ block.mlp.W_in)
            sae.W_dec.copy_(block.mlp.W_out)
            sae.b_dec.copy_(block.mlp.b_out)
        made.append(sae.requires_grad_(False))
    return by_layer(made, relu_model)
