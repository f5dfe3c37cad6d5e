"""`workbench sae train` and `workbench sae eval`."""

from workbench.cli.command import Command

train = Command(
    summary="Train a sparse autoencoder on the activations at one site of a model",
    options="saes.config:TrainConfig",
    run="saes.console:train",
)

evaluate = Command(
    summary="Judge a sparse autoencoder: reconstruction, loss, decoder, concepts, stability, probing",
    options="saes.config:EvalConfig",
    run="saes.console:evaluate",
)
