"""Every architecture at the same number of active latents, against what is known to be there.

    python benchmarks/architectures.py [--worlds tiny superposed …] [--tokens 500000] [--seed 0] [--json FILE]

Two parts. *Worlds*: the synthetic benchmark of `saes.synthetic`, as many latents as features, L0 that of the features.
*Tinytown*: the bundled model at blocks.2.hook_resid_post, 1,024 latents, L0 16, and how well the latents find the
generator's concepts; the model is read once for all SAEs of a round.

Architectures with k are given it. Those with an L1 penalty are trained for a quarter of the tokens at some
coefficients first, and then in full at the one that this suggests, corrected until L0 is within a tenth of k. Prints
Markdown tables. A training on a world takes 1,000,000 rows.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from saes.config import TrainConfig
from saes.judging.labelled import judge_corpus
from saes.storage import load_sae
from saes.synthetic.benchmark import SCORED_WITH, benchmark_config, train
from saes.synthetic.scores import score
from saes.synthetic.world import PRESETS, preset
from saes.training import open_held_out, train_together
from workbench.model import load_model

WITH_K = ("topk", "batchtopk", "matryoshka", "jumprelu", "matching_pursuit")
PENALISED = ("gated", "standard")
COEFFICIENTS = (0.2, 0.6, 1.8, 5.4)
"""What the short trainings try."""
SHORT = 4
"""How many times shorter they are."""
TOLERANCE = 0.1
ROUNDS = 6
"""Full trainings, at most, of a penalised architecture."""
STEEPNESS = 1.5
"""How L0 usually falls with the coefficient: -d log L0 / d log coefficient."""
FARTHEST = math.log(4.0)
"""The log of the largest factor between a coefficient that was tried and the next."""

SITE, D_SAE, K, MEASURED_ON = "blocks.2.hook_resid_post", 1024, 16, 100_000


@dataclass(frozen=True)
class Row:
    """One architecture in one setting."""

    setting: str
    architecture: str
    coefficient: float | None
    """Of the L1 penalty, where there is one."""
    l0: float
    figures: dict[str, float]
    tokens_per_second: float


Train = Callable[[Sequence[TrainConfig]], list[Row]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", nargs="*", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--tokens", type=int, default=500_000, help="on Tinytown; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.worlds:
        rows += report(at_matched_l0(on_world, benchmark_config(name, seed=options.seed)))
    if options.tokens:
        with tempfile.TemporaryDirectory() as home:
            rows += report(at_matched_l0(on_tinytown, tinytown_config(Path(home), options.tokens, options.seed)))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


def at_matched_l0(train: Train, config: TrainConfig) -> list[Row]:
    """A row for each architecture, at an L0 of about `config.k`."""
    short = replace(config, tokens=config.tokens // SHORT)
    tried = train([penalised(short, name, coefficient) for name in PENALISED for coefficient in COEFFICIENTS])
    known = {name: [row for row in tried if row.architecture == name] for name in PENALISED}
    configs = [replace(config, architecture=name) for name in WITH_K]
    configs += [penalised(config, name, suggested(known[name], config.k)) for name in PENALISED]
    best: dict[str, Row] = {}
    known = {name: [] for name in PENALISED}
    for _ in range(ROUNDS):
        for one in train(configs):
            name = one.architecture
            if name not in best or miss(one, config.k) < miss(best[name], config.k):
                best[name] = one
            if name in PENALISED:
                known[name].append(one)
        missed = [name for name in PENALISED if miss(best[name], config.k) > TOLERANCE]
        if not missed:
            break
        configs = [penalised(config, name, suggested(known[name], config.k)) for name in missed]
    return [best[name] for name in (*WITH_K, *PENALISED)]


def penalised(config: TrainConfig, architecture: str, coefficient: float) -> TrainConfig:
    return replace(config, architecture=architecture, l1_coefficient=coefficient)


def miss(row: Row, k: int) -> float:
    return abs(row.l0 / k - 1)


def suggested(rows: list[Row], k: int) -> float:
    """The coefficient at which L0 is expected to be k, on a line through log coefficient and log L0.

    The line goes through the nearest rows above and below k; where all lie on one side, through the nearest, with the
    usual slope and no further than `FARTHEST` from it.
    """
    logs = [(math.log(row.coefficient), math.log(max(row.l0, 0.1) / k)) for row in rows]
    above, below = ([point for point in logs if (point[1] > 0) == side] for side in (True, False))
    if above and below:
        (a, y), (b, z) = min(above, key=lambda point: point[1]), max(below, key=lambda point: point[1])
        return math.exp(a - y * (b - a) / (z - y))
    a, y = min(logs, key=lambda point: abs(point[1]))
    return math.exp(a + min(max(y / STEEPNESS, -FARTHEST), FARTHEST))


def row(config: TrainConfig, l0: float, figures: dict[str, float], rate: float) -> Row:
    coefficient = config.l1_coefficient if config.architecture in PENALISED else None
    return Row(config.site, config.architecture, coefficient, l0, figures, rate)


def on_world(configs: Sequence[TrainConfig]) -> list[Row]:
    rows = []
    for config in configs:
        world = preset(config.out.name)
        started = time.process_time()
        sae = train(world, config)
        seconds = time.process_time() - started
        scores = score(sae, world, seed=SCORED_WITH)
        names = ("recovered", "mcc", "f1", "uniqueness", "dead", "fvu")
        figures = {name: getattr(scores, name) for name in names}
        rows.append(row(config, scores.l0, figures, config.tokens / seconds))
    return rows


def tinytown_config(home: Path, tokens: int, seed: int) -> TrainConfig:
    return TrainConfig(
        site=SITE, out=home, d_sae=D_SAE, k=K, tokens=tokens, seed=seed, data_seed=seed, checkpoint_every=0
    )


def on_tinytown(configs: Sequence[TrainConfig]) -> list[Row]:
    """All on one pass over the model. Concepts are judged where L0 is as it should be."""
    model = load_model("tinytown")
    home = Path(tempfile.mkdtemp(dir=configs[0].out))
    runs = [replace(config, out=home / f"{number}-{config.architecture}") for number, config in enumerate(configs)]
    rows = []
    for config, result in zip(configs, train_together(runs, home, model), strict=True):
        report = result.report
        figures = {name: getattr(report, name) for name in ("fvu", "loss_recovered", "dead")}
        rows.append(row(config, report.l0, figures, result.tokens / result.seconds))
        if config.architecture in WITH_K or miss(rows[-1], K) <= TOLERANCE:
            held_out = open_held_out("tinytown", model, config.context)
            concepts = judge_corpus(load_sae(result.out), model, held_out, MEASURED_ON).concepts
            figures["covered"] = sum(one.f1 >= 0.8 for one in concepts.concepts)
            figures |= {name: getattr(concepts, name) for name in ("mean_f1", "absorption", "splits")}
    return rows


FORMS = {
    "recovered": ("recovered", ".1%"),
    "mcc": ("MCC", ".3f"),
    "f1": ("F1", ".3f"),
    "uniqueness": ("unique", ".3f"),
    "covered": ("concepts found", ".0f"),
    "mean_f1": ("mean F1", ".3f"),
    "absorption": ("absorbed", ".1%"),
    "splits": ("latents a parent", ".2f"),
    "fvu": ("FVU", ".3f"),
    "loss_recovered": ("loss recovered", ".1%"),
    "dead": ("dead", ".1%"),
}
"""Heading and format of each figure."""


def report(rows: list[Row]) -> list[Row]:
    """Print a Markdown table, and hand the rows on."""
    names = [name for name in FORMS if any(name in row.figures for row in rows)]
    heads = ["architecture", "L0", *(FORMS[name][0] for name in names), "tokens/s"]
    print(f"\n{rows[0].setting}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for row in rows:
        name = row.architecture + (f" (l1 {row.coefficient:.3g})" if row.coefficient else "")
        cells = [cell(row.figures.get(figure), FORMS[figure][1]) for figure in names]
        print(f"| {' | '.join([name, f'{row.l0:.2f}', *cells, f'{row.tokens_per_second:,.0f}'])} |", flush=True)
    return rows


def cell(value: float | None, form: str) -> str:
    return "n/a" if value is None or math.isnan(value) else format(value, form)


if __name__ == "__main__":
    main()
