"""Write a feature index as Neuronpedia's bulk import reads it.

    release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
    features/batch-N.jsonl.gz   activations/batch-N.jsonl.gz      128 latents each

What the index does not know is left empty: correlations with neurons, attribution to heads, explanations. Its
histograms have 32 to 64 bins of equal width up to the maximum, where SAEDashboard's have 50. Values are rounded to
`DIGITS` decimals.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saes.formats import neuronpedia_rows as rows
from saes.index.feature_index import FeatureIndex
from saes.index.geometry import LogitHistogram, logit_histograms
from saes.index.records import Example, LatentRecord, Summary
from saes.sae import SAE
from workbench.errors import SettingError
from workbench.files import whole_file, write_text
from workbench.model import HookedModel

BATCH = 128
DIGITS = 5
N_ALIGNED = 3


@dataclass(frozen=True)
class Names:
    """How the site is to name what it is given."""

    model: str
    source_set: str
    release: str
    creator: str

    @classmethod
    def of(cls, summary: Summary, source_set: str, release: str, creator: str) -> "Names":
        """The model by the last part of its name. Raises `SettingError` for a name that cannot stand in an address."""
        names = cls(Path(summary.model).name.lower(), source_set, release, creator)
        for name in (names.source_set, names.release):
            if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
                raise SettingError(f"{name!r} must be lower-case letters, digits, dots, dashes or underscores")
        return names


def export_neuronpedia(
    sae: SAE,
    index: FeatureIndex,
    model: HookedModel,
    out: Path,
    names: Names,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write all latents of an index to the directory `out`; returns how many activations (examples) there are.

    Each file is written whole or not at all. `on_progress` is called with the number of latents done. Raises
    `SettingError` if the index is of another SAE or the site has no layer, and `OSError`.
    """
    summary = index.summary
    source = f"{layer_of(summary.site)}-{names.source_set}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for name, row in _heads(sae, summary, model, names, source, now).items():
        write_text(out / f"{name}.jsonl", _line(row))
    n_activations = 0
    for batch, start in enumerate(range(0, summary.n_latents, BATCH)):
        stop = min(start + BATCH, summary.n_latents)
        records = index.latents(start, stop)
        histograms = logit_histograms(sae, model, start, stop)
        write = _Rows(names, source, now, summary, sae.route.writes[-1])
        features = [
            write.feature(record, sae.W_dec[record.latent], histogram)
            for record, histogram in zip(records, histograms, strict=True)
        ]
        activations = [row for record in records for row in write.activations(record)]
        _write_lines(out / "features" / f"batch-{batch}.jsonl.gz", features)
        _write_lines(out / "activations" / f"batch-{batch}.jsonl.gz", activations)
        n_activations += len(activations)
        if on_progress:
            on_progress(stop)
    return n_activations


def layer_of(site: str) -> int:
    """Raises `SettingError` for a site outside the layers."""
    match = re.match(r"blocks\.(\d+)\.", site)
    if not match:
        raise SettingError(f"Neuronpedia files SAEs by layer, and {site} is in none")
    return int(match[1])


def _heads(sae: SAE, summary: Summary, model: HookedModel, names: Names, source: str, now: str) -> dict[str, Any]:
    info, creator = model.info, names.creator
    about = f"SAE with {summary.n_latents:,} latents at {summary.site} of {summary.model}"
    return {
        "release": rows.Release(names.release, about, creator, creator, now, defaultSourceSetName=names.source_set),
        "model": rows.Model(
            names.model, creator, names.model, summary.model, info.d_model, info.n_layers, info.d_mlp or 0, now, now,
            owner=creator,
        ),
        "sourceset": rows.SourceSet(
            names.model, names.source_set, creator, about, summary.site, creator, names.release, now
        ),
        "source": rows.Source(
            source, names.model, names.source_set, creator, -(-summary.n_tokens // summary.context), summary.context,
            summary.corpus, now, saelensConfig={"architecture": sae.architecture} | dict(sae.cfg.metadata),
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """Makes the rows of one source."""

    names: Names
    source: str
    now: str
    summary: Summary
    hook: str
    """Where the latents' vectors are added, to steer."""

    def feature(
        self, record: LatentRecord, vector: Float[Tensor, " d_in"], histogram: LogitHistogram | None
    ) -> rows.Feature:
        aligned = vector.topk(min(N_ALIGNED, len(vector)))
        heights, values = histogram or ([], [])
        return rows.Feature(
            modelId=self.names.model,
            layer=self.source,
            index=str(record.latent),
            creatorId=self.names.creator,
            createdAt=self.now,
            maxActApprox=_round(record.maximum),
            vector=_rounded(vector),
            vectorDefaultSteerStrength=_round(record.maximum),
            hookName=self.hook,
            topkCosSimIndices=[other.latent for other in record.neighbours],
            topkCosSimValues=_rounded([other.cosine for other in record.neighbours]),
            neuron_alignment_indices=aligned.indices.tolist(),
            neuron_alignment_values=_rounded(aligned.values),
            neuron_alignment_l1=_rounded(aligned.values / vector.abs().sum().clamp_min(1e-12)),
            neg_str=_printable([logit.string for logit in record.bottom_logits]),
            neg_values=_rounded([logit.effect for logit in record.bottom_logits]),
            pos_str=_printable([logit.string for logit in record.top_logits]),
            pos_values=_rounded([logit.effect for logit in record.top_logits]),
            frac_nonzero=record.density,
            freq_hist_data_bar_heights=[float(count) for count in record.histogram],
            freq_hist_data_bar_values=_rounded([(i + 0.5) * record.bin_width for i in range(len(record.histogram))]),
            logits_hist_data_bar_heights=heights,
            logits_hist_data_bar_values=_rounded(values),
            sourceSetName=self.names.source_set,
        )

    def activations(self, record: LatentRecord) -> Iterable[rows.Activation]:
        return (self._activation(record, place, example) for place, example in enumerate(record.examples))

    def _activation(self, record: LatentRecord, place: int, example: Example) -> rows.Activation:
        band = None if example.band is None else record.bands[example.band]
        return rows.Activation(
            id=f"{self.names.model}-{self.source}-{record.latent}-{place}",
            tokens=_printable(example.strings),
            index=str(record.latent),
            layer=self.source,
            modelId=self.names.model,
            maxValue=_round(example.maximum),
            maxValueTokenIndex=example.peak,
            minValue=_round(min(example.activations)),
            values=_rounded(example.activations),
            creatorId=self.names.creator,
            dataSource=self.summary.corpus,
            dataIndex=str(example.document),
            createdAt=self.now,
            binMin=_round(band.low) if band else -1.0,
            binMax=_round(band.high if band else record.maximum),
            binContains=band.n_tokens / self.summary.n_tokens if band else -1.0,
            qualifyingTokenIndex=example.peak,
        )


def _round(value: float) -> float:
    return round(float(value), DIGITS)


def _rounded(values: Tensor | list[float]) -> list[float]:
    return [_round(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]


def _printable(strings: list[str]) -> list[str]:
    """Without NUL, which the site's database cannot hold and its own import replaces by a space."""
    return [string.replace("\0", " ") for string in strings]


def _line(row: Any) -> str:
    return json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n"


def _write_lines(path: Path, lines: list[Any]) -> None:
    with whole_file(path) as part, gzip.open(part, "wt", encoding="utf-8", compresslevel=6) as file:
        file.writelines(map(_line, lines))
