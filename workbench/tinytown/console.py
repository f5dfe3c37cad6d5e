"""The `workbench tinytown` commands as a person meets them."""

from pathlib import Path

import numpy as np

from workbench.tinytown.language import Language
from workbench.tinytown.options import EvaluateOptions, SampleOptions, TrainOptions


def sample(options: SampleOptions) -> str:
    """Documents, one a line."""
    language = Language()
    lines: list[str] = []
    for chunk in language.chunks(options.seed, options.split, documents=100):
        words = np.split(chunk.tokens, np.flatnonzero(np.diff(chunk.document)) + 1)
        lines += [" ".join(language.words[word] for word in document[1:]) for document in words]
        if len(lines) >= options.documents:
            break
    return "\n".join(lines[: options.documents])


def train(options: TrainOptions) -> str:
    """Train with a progress bar, save the model, measure it, and write its card beside it."""
    from workbench.cli.progress import progress_bar
    from workbench.files import write_text
    from workbench.model import load_model
    from workbench.tinytown.card import card
    from workbench.tinytown.evaluation import evaluate as measure
    from workbench.tinytown.training import Step, check_out, keep_checkpoints, save_model, train_model

    out = Path(options.out)
    check_out(out)
    with progress_bar() as update:
        keep = keep_checkpoints(options)

        def on_step(step: Step, model: object) -> None:
            update(completed=step.step, total=step.steps, description=f"loss {step.loss:.3f}")
            keep(step, model)

        model = train_model(options, on_step)
    save_model(model, options.context, out)
    result = measure(load_model(out))
    write_text(out / "README.md", card(options, result))
    return f"{result}\n\nSaved in {out}"


def evaluate(options: EvaluateOptions):
    from workbench.model import load_model
    from workbench.tinytown.evaluation import evaluate as measure

    return measure(load_model(options.model), examples=options.examples, seed=options.seed)
