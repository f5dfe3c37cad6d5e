"""`workbench sae train`, `sweep`, `finetune`, `compare` and `eval`."""

from workbench.cli.command import Command

train = Command(
    summary="Train a sparse autoencoder, a transcoder or a crosscoder on a model's activations",
    options="saes.config:TrainConfig",
    run="saes.console:train",
)

sweep = Command(
    summary="Train several sparse autoencoders on one pass over the model, and compare them",
    options="saes.config:SweepConfig",
    run="saes.console:sweep",
)

finetune = Command(
    summary="Fine-tune a sparse autoencoder on the loss of the model it is spliced into",
    options="saes.config:FinetuneConfig",
    run="saes.console:finetune",
)

compare = Command(
    summary="Put trained sparse autoencoders side by side",
    options="saes.config:CompareConfig",
    run="saes.console:compare",
    figure="saes.console:draw",
)

evaluate = Command(
    summary="Judge a sparse autoencoder: reconstruction, loss, decoder, concepts, stability, probing",
    options="saes.config:EvalConfig",
    run="saes.console:evaluate",
)
