"""The routers of a mixture of experts: how evenly they spread tokens, how sure they are, and which tokens go where."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.activations import special_ids
from workbench.corpus import Corpus
from workbench.errors import CorpusError, ModelError
from workbench.hooking import attach, hooked
from workbench.model import HookedModel

ROUTER = "blocks.{}.mlp.gate.hook_out"
TOKENS = 20_000
"""How many tokens are read if nothing else is said."""


@dataclass(frozen=True)
class Routing:
    """Where the routers send the tokens of a corpus."""

    layers: list[int]
    """The layers that have a router."""
    load: Float[Tensor, "layer expert"]
    """Share of tokens that go to each expert; a row sums to the number of experts that a token goes to."""
    probability: Float[Tensor, "layer expert"]
    """Mean probability of each expert, softmax over all; a row sums to 1."""
    entropy: Float[Tensor, " layer"]
    """Mean entropy of a token's probabilities, in nats: log(experts) for a router that does not care."""
    information: Float[Tensor, " layer"]
    """Mutual information of a token's identity and its first choice, in nats: 0 if every token of the vocabulary is
    spread over the experts alike, the entropy of the choice if the token alone decides."""
    top_tokens: Int[Tensor, "layer expert k"]
    """The tokens with the largest share of their occurrences routed to the expert, among those seen often enough."""
    top_strings: list[list[list[str]]]
    top_shares: Float[Tensor, "layer expert k"]
    """-1 where too few tokens were seen often enough."""
    n_tokens: int
    per_token: int
    """Experts that a token goes to."""

    def __str__(self) -> str:
        n_experts = self.load.shape[1]
        even = self.per_token / n_experts
        lines = [f"{n_experts} experts, {self.per_token} a token, {self.n_tokens:,} tokens; an even load is {even:.0%}"]
        for row, layer in enumerate(self.layers):
            entropy, information = self.entropy[row].item(), self.information[row].item()
            lines.append(
                f"  L{layer}  router entropy {entropy:.2f} nats, the token itself tells {information:.2f} nats"
            )
            for expert in range(n_experts):
                pairs = zip(self.top_strings[row][expert], self.top_shares[row, expert].tolist(), strict=True)
                words = " ".join(f"{string!r}" for string, share in pairs if share >= 0)
                lines.append(f"    expert {expert:>3}  load {self.load[row, expert]:4.0%}  {words}")
        return "\n".join(lines)


@torch.no_grad()
def routing(
    model: HookedModel,
    corpus: Corpus,
    *,
    n_tokens: int = TOKENS,
    k: int = 8,
    least: int = 5,
    batch_size: int = 16,
    on_progress: Callable[[int], None] | None = None,
) -> Routing:
    """Read about `n_tokens` text tokens (whole batches). Tokens seen fewer than `least` times are not listed.

    Memory: a count for each layer, expert and token of the vocabulary. Raises `ModelError` for a model without routers.
    """
    layers = _layers_with_router(model)
    per_token = int(getattr(model.bridge.original_model.config, "num_experts_per_tok", 1))
    n_experts, d_vocab = int(model.info.n_experts), model.info.d_vocab
    sent = torch.zeros(len(layers), n_experts, d_vocab, dtype=torch.long)
    first = torch.zeros_like(sent)
    probability, entropy = torch.zeros(len(layers), n_experts, dtype=torch.float64), torch.zeros(len(layers)).double()
    seen, done = torch.zeros(d_vocab, dtype=torch.long), 0
    skip = special_ids(model.tokenizer)
    for batch in corpus.batches(batch_size):
        keep = batch.mask(skip)
        tokens = batch.tokens[keep]
        for row, logits in enumerate(_router_logits(model, batch.tokens, layers)):
            probs = logits.view(*batch.tokens.shape, n_experts).cpu()[keep].float().softmax(-1)
            chosen = probs.topk(per_token).indices
            for place in range(per_token):
                sent[row].view(-1).add_(_counts(chosen[:, place], tokens, n_experts, d_vocab))
            first[row].view(-1).add_(_counts(chosen[:, 0], tokens, n_experts, d_vocab))
            probability[row] += probs.sum(0)
            entropy[row] += torch.special.entr(probs).sum()
        seen += tokens.bincount(minlength=d_vocab)
        done += len(tokens)
        if on_progress:
            on_progress(min(done, n_tokens))
        if done >= n_tokens:
            break
    if not done:
        raise CorpusError(f"{corpus.name} holds no text tokens")
    shares = torch.where(seen >= least, sent / seen.clamp_min(1), -1.0)
    top = shares.topk(min(k, d_vocab))
    return Routing(
        layers=layers,
        load=(sent.sum(-1) / done).float(),
        probability=(probability / done).float(),
        entropy=(entropy / done).float(),
        information=_information(first.double() / done).float(),
        top_tokens=top.indices,
        top_strings=[[model.token_strings(expert) for expert in row] for row in top.indices],
        top_shares=top.values,
        n_tokens=done,
        per_token=per_token,
    )


def _layers_with_router(model: HookedModel) -> list[int]:
    known = model.bridge.hook_dict
    layers = [layer for layer in range(model.info.n_layers) if ROUTER.format(layer) in known]
    if not (model.info.n_experts and layers):
        raise ModelError(f"{model.info.name} is not a mixture of experts: it has no router")
    return layers


def _router_logits(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], layers: list[int]
) -> list[Float[Tensor, "token expert"]]:
    found: dict[str, Tensor] = {}
    names = [ROUTER.format(layer) for layer in layers]
    points = {name: partial(attach, model.bridge.hook_dict[name]) for name in names}
    with hooked(points, {name: partial(found.__setitem__, name) for name in names}):
        model.run(tokens, stop_after=f"blocks.{layers[-1]}.hook_mlp_out")
    return [found[name] for name in names]


def _counts(
    expert: Int[Tensor, " token"], tokens: Int[Tensor, " token"], n_experts: int, d_vocab: int
) -> Int[Tensor, " cell"]:
    return (expert * d_vocab + tokens).bincount(minlength=n_experts * d_vocab)


def _information(joint: Float[Tensor, "layer expert token"]) -> Float[Tensor, " layer"]:
    independent = joint.sum(1, keepdim=True) * joint.sum(2, keepdim=True)
    return torch.special.xlogy(joint, joint / independent.clamp_min(1e-300)).sum((1, 2))
