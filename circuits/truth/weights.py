"""Small transformers without norms, made of given weights, as hooked models."""

from collections.abc import Mapping, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from workbench.model import HookedModel

Weights = Mapping[str, Tensor]
"""Parameters by name: `tok_embed.weight`, `pos.weight`, `layers.0.attn.q.weight`, …, `layers.0.mlp.fc_in.bias`, …,
`head.weight`; all as PyTorch's linear layers have them, [output, input]."""


def model_of(
    weights: Weights, name: str, vocabulary: Sequence[str], *, n_layers: int, n_heads: int, mlp: bool = True
) -> HookedModel:
    """A transformer with learned positions, ReLU and no norms. Parameters that are not given are zero; all are frozen.

    Its tokens are words parted by spaces.
    """
    n_positions, d_model = weights["pos.weight"].shape
    config = TransformerBridgeConfig(
        n_layers=n_layers,
        n_heads=n_heads,
        d_model=d_model,
        d_head=len(weights["layers.0.attn.v.weight"]) // n_heads,
        d_mlp=len(weights["layers.0.mlp.fc_in.weight"]) if mlp else None,
        n_ctx=n_positions,
        d_vocab=len(vocabulary),
        attn_only=not mlp,
        act_fn="relu",
        normalization_type=None,
        positional_embedding_type="standard",
    )
    bridge = TransformerBridge.boot_native(config, device="cpu")
    bridge.original_model.eval().requires_grad_(False)
    model = HookedModel(bridge, name, _tokenizer(vocabulary))
    for parameter_name, parameter in parameters_of(model).items():
        given = weights.get(parameter_name)
        parameter.zero_() if given is None else parameter.copy_(given)
    return model


def parameters_of(model: HookedModel) -> dict[str, Tensor]:
    """The parameters of a model that `model_of` made, as they are named there."""
    named = model.bridge.original_model.named_parameters()
    return {name.replace("._original_component", ""): parameter for name, parameter in named}


def _tokenizer(vocabulary: Sequence[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core)
