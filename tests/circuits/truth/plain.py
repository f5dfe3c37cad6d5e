"""A small transformer in plain PyTorch that keeps apart what each node writes: the brute force behind the truth."""

import torch

from circuits.truth.weights import parameters_of


def plain_logits(model, tokens, without=(), instead=None):
    """Logits at the last position [prompt, vocabulary], and what each source wrote.

    Along the edges in `without`, the destination reads `instead[source]`, or nothing if there is no `instead`.
    """
    weights, info = parameters_of(model), model.info
    length = tokens.shape[1]
    written = {"input": weights["tok_embed.weight"][tokens] + weights["pos.weight"][:length]}
    constant = 0

    def read(destination):
        total = constant
        for source, value in written.items():
            if f"{source}->{destination}" in without:
                value = torch.zeros_like(value) if instead is None else instead[source]
            total = total + value
        return total

    def project(layer, head, part):
        name = f"layers.{layer}.attn.{part}"
        rows = slice(head * info.d_head, (head + 1) * info.d_head)
        return read(f"a{layer}.h{head}<{part}>") @ weights[f"{name}.weight"][rows].T + weights[f"{name}.bias"][rows]

    future = torch.ones(length, length).triu(1).bool()
    for layer in range(info.n_layers):
        heads = {}
        for head in range(info.n_heads):
            q, k, v = (project(layer, head, part) for part in "qkv")
            scores = (q @ k.transpose(1, 2) / info.d_head**0.5).masked_fill(future, -torch.inf)
            columns = slice(head * info.d_head, (head + 1) * info.d_head)
            heads[f"a{layer}.h{head}"] = scores.softmax(-1) @ v @ weights[f"layers.{layer}.attn.o.weight"][:, columns].T
        written |= heads
        constant = constant + weights[f"layers.{layer}.attn.o.bias"]
        if info.d_mlp is not None:
            mlp = f"layers.{layer}.mlp"
            hidden = read(f"m{layer}") @ weights[f"{mlp}.fc_in.weight"].T + weights[f"{mlp}.fc_in.bias"]
            written[f"m{layer}"] = hidden.relu() @ weights[f"{mlp}.fc_out.weight"].T + weights[f"{mlp}.fc_out.bias"]
    return (read("logits") @ weights["head.weight"].T + weights["head.bias"])[:, -1], written
