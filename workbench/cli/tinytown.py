"""`workbench tinytown …`: print texts of the bundled language, train its model, measure it."""

from workbench.cli.command import Command

sample = Command(
    "Print texts of the bundled language",
    options="workbench.tinytown.options:SampleOptions",
    run="workbench.tinytown.console:sample",
)
train = Command(
    "Train the bundled model from random weights",
    options="workbench.tinytown.options:TrainOptions",
    run="workbench.tinytown.console:train",
)
evaluate = Command(
    "Measure a model on every skill of Tinytown",
    options="workbench.tinytown.options:EvaluateOptions",
    run="workbench.tinytown.console:evaluate",
)
