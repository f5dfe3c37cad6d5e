"""`workbench sae bench`."""

from workbench.cli.command import Command

bench = Command(
    summary="Train on worlds of known features, and count what was found",
    options="saes.synthetic.options:BenchConfig",
    run="saes.synthetic.console:bench",
)
