"""The card of a trained model: what it is, how it was made, what was measured."""

from workbench.tinytown.evaluation import Evaluation
from workbench.tinytown.options import TrainOptions

TEXT = """\
# The Tinytown model

A {kind} of {n_layers} layers, {n_heads} heads{shared}, d_model {d_model}, d_mlp {d_mlp}, rotary positions, a context of
{context} tokens: small enough to study whole, trained only on Tinytown (see `workbench/tinytown/language.py`), a
language whose every concept is known.

Made by

    {command}

in float32: {tokens:,} tokens, the first {passages:,} of them repeated passages of random words, none seen twice;
batches of {batch_size} contexts, attention within documents for the first 60% of the steps; AdamW with a peak learning
rate of {learning_rate:g} (100 steps of warm-up, linear fall to 0 over the second half), weight decay {weight_decay:g},
seed {seed}. How the weights begin: see `workbench/tinytown/initial.py`.

## Skills, on held-out material

Each prompt has a combination that training never showed: a pair of names, a fact in a phrasing, a noun with an
attractor, a sequence of words. Accuracy is the share of prompts on which the answer's logit is above the distractor's.

| skill | accuracy | mean logit difference | prompts |
|---|---|---|---|
{skills}

## Repeated random words

On `<bos> A A`, A being {length} random words, the loss is {first:.2f} nats a word on the first copy and {second:.2f}
on the second: {drop:.0%} lower. Mean attention on the stripe, best heads (a perfect head scores 1):

| previous token | duplicate token | induction |
|---|---|---|
{heads}

Measured by `workbench tinytown evaluate`.
"""


def card(options: TrainOptions, evaluation: Evaluation) -> str:
    """The card as Markdown."""
    heads = evaluation.heads
    columns = [heads.ranked(kind)[:3] for kind in ("previous_token", "duplicate_token", "induction")]
    defaults = TrainOptions(out="")
    changed = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in vars(options).items()
        if name not in ("out", "checkpoints") and value != getattr(defaults, name)
    ]
    return TEXT.format(
        **vars(options),
        kind={"llama": "Llama", "gemma2": "Gemma 2"}[options.architecture],
        shared=f" in {options.n_kv_heads} groups that share keys and values" if options.n_kv_heads else "",
        command=" ".join(["workbench tinytown train --out DIR", *changed]),
        skills="\n".join(
            f"| {s.skill} | {s.accuracy:.1%} | {s.logit_difference:.2f} | {s.prompts} |" for s in evaluation.skills
        ),
        length=heads.length,
        first=heads.first_loss,
        second=heads.second_loss,
        drop=heads.loss_drop,
        heads="\n".join(
            "| " + " | ".join(f"L{layer}H{head} {score:.2f}" for layer, head, score in row) + " |"
            for row in zip(*columns, strict=True)
        ),
    )
