"""Ask a feature index: a page of the table of latents, everything about one latent, which concepts are covered."""

import weakref
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb

from saes.index.records import (
    Band,
    ConceptScore,
    Coverage,
    Example,
    LatentRecord,
    LogitEffect,
    Neighbour,
    Page,
    Partner,
    Report,
    Summary,
)
from saes.index.storage import check_tables, read_summary, table_path
from workbench.errors import DamagedFile, SettingError
from workbench.scale import BANDS, BINS

SORTS = {
    "latent": "latents.latent",
    "density": "density",
    "n_active": "n_active",
    "maximum": "maximum",
    "mean": "mean",
    "concept": "c.concept",
    "f1": "c.f1",
}
"""What the table can be sorted by."""
Range = tuple[float | None, float | None]
ANY: Range = (None, None)
Row = dict[str, Any]

_ROWS = """
SELECT latents.latent, density, n_active, maximum, mean, c.concept, c.f1, c.precision, c.recall, peaks, promotes
"""
_FILTERED = """
FROM latents LEFT JOIN concepts AS c
     ON c.latent = latents.latent AND c.concept = coalesce($concept, latents.concept)
WHERE ($concept IS NULL OR c.concept IS NOT NULL)
  AND ($density_low IS NULL OR density >= $density_low) AND ($density_high IS NULL OR density <= $density_high)
  AND ($maximum_low IS NULL OR maximum >= $maximum_low) AND ($maximum_high IS NULL OR maximum <= $maximum_high)
  AND ($f1_low IS NULL OR c.f1 >= $f1_low) AND ($f1_high IS NULL OR c.f1 <= $f1_high)
  AND contains(search, $search)
"""
_SPAN = "latent >= $start AND latent < $stop"
_CONCEPTS = "SELECT concept, latent, threshold, precision, recall, f1, f1_at_zero FROM concepts"


class FeatureIndex:
    """A feature index that has been built. Several threads may ask it at once; the files are only read."""

    def __init__(self, directory: Path, summary: Summary):
        self.directory, self.summary = directory, summary
        self._database = duckdb.connect()
        weakref.finalize(self, self._database.close)  # at the latest at exit, while DuckDB can still let go
        for name in ("latents", "concepts"):
            list(self._ask(f"CREATE TABLE {name} AS FROM read_parquet($file)", file=self._file(name)))
        strings = self._ask("SELECT token, string FROM read_parquet($file)", file=self._file("strings"))
        self._strings = {row["token"]: row["string"] for row in strings}

    @classmethod
    def open(cls, directory: Path | str) -> "FeatureIndex":
        """Open the index in an SAE's directory. Raises `DamagedFile` if there is none or a file of it is damaged."""
        summary = read_summary(Path(directory))
        check_tables(Path(directory))
        return cls(Path(directory), summary)

    def table(
        self,
        *,
        sort: str = "density",
        descending: bool = True,
        density: Range = ANY,
        maximum: Range = ANY,
        concept: str | None = None,
        f1: Range = ANY,
        search: str = "",
        limit: int = 50,
        offset: int = 0,
    ) -> Page:
        """A page of latents. `density`, `maximum` and `f1` are (lowest, highest), inclusive, None for no limit.

        `concept` keeps the latents listed for it; `f1`, `precision`, `recall` are then about it, otherwise about the
        best concept of each. `search` keeps latents where the text occurs, whatever its case, in a token on which a top
        example fires, in one of the top logits, or in the name of a listed concept. Rows of equal rank are in order of
        latent; empty values come last.

        Each row: latent, density, n_active, maximum, mean, concept, f1, precision, recall (None without concepts),
        peaks (the most frequent peak tokens of the top examples), promotes (the first top logits).

        Raises `SettingError` for an unknown column or concept, or a negative limit or offset.
        """
        if sort not in SORTS:
            raise SettingError(f"the table cannot be sorted by {sort!r}; it can by {', '.join(SORTS)}")
        if concept is not None and concept not in self.summary.concepts:
            raise SettingError(f"the index has no concept {concept!r}")
        if limit < 0 or offset < 0:
            raise SettingError(f"limit and offset must be 0 or more, not {limit} and {offset}")
        filters = {"concept": concept, "search": search.strip().lower()}
        for name, (low, high) in {"density": density, "maximum": maximum, "f1": f1}.items():
            filters |= {f"{name}_low": low, f"{name}_high": high}
        order = f"ORDER BY {SORTS[sort]} {'DESC' if descending else 'ASC'} NULLS LAST, latents.latent"
        rows = self._ask(
            f"{_ROWS} {_FILTERED} {order} LIMIT $limit OFFSET $offset", **filters, limit=limit, offset=offset
        )
        (count,) = self._ask(f"SELECT count(*) AS total {_FILTERED}", **filters)
        return Page(list(rows), count["total"])

    def latent(self, latent: int) -> LatentRecord:
        """All that is known of one latent. Raises `SettingError` if there is no such latent."""
        if not 0 <= latent < self.summary.n_latents:
            raise SettingError(f"there is no latent {latent}; the SAE has 0 to {self.summary.n_latents - 1}")
        return self.latents(latent, latent + 1)[0]

    def latents(self, start: int, stop: int) -> list[LatentRecord]:
        """All that is known of the latents from `start` to before `stop`, each table being read once."""
        span = {"start": start, "stop": stop}
        scores = self._ask(f"{_CONCEPTS} WHERE {_SPAN} ORDER BY latent, place", **span)
        concepts = {latent: list(rows) for latent, rows in groupby(scores, key=lambda row: row["latent"])}
        tables = {name: self._rows(name, **span) for name in ("logits", "neighbours", "coactive", "examples")}
        contexts = self._contexts(row["context"] for rows in tables["examples"].values() for row in rows)
        return [
            self._record(
                facts,
                concepts.get(facts["latent"], []),
                {name: rows.get(facts["latent"], []) for name, rows in tables.items()},
                contexts,
            )
            for facts in self._ask(f"SELECT * FROM latents WHERE {_SPAN} ORDER BY latent", **span)
        ]

    def _record(
        self, facts: Row, concepts: list[Row], rows: dict[str, list[Row]], contexts: dict[int, Row]
    ) -> LatentRecord:
        effects = {
            is_top: [
                LogitEffect(row["token"], self._strings[row["token"]], row["effect"])
                for row in rows["logits"]
                if row["is_top"] == is_top
            ]
            for is_top in (True, False)
        }
        return LatentRecord(
            **{name: facts[name] for name in ("latent", "density", "n_active", "maximum", "mean", "bin_width")},
            histogram=_in_use(facts["histogram"]),
            bands=_bands(facts["histogram"], facts["bin_width"]),
            quantiles=facts.get("quantiles") or [],
            quantiles_exact=facts["n_active"] <= facts.get("n_sampled", 0),
            top_logits=effects[True],
            bottom_logits=effects[False],
            neighbours=[Neighbour(row["other"], row["cosine"]) for row in rows["neighbours"]],
            coactive=[Partner(row["other"], row["together"], row["phi"], row["jaccard"]) for row in rows["coactive"]],
            concepts=[ConceptScore(**row) for row in concepts],
            examples=[self._example(row, contexts[row["context"]]) for row in rows["examples"]],
        )

    def coverage(self, f1: float = 0.8) -> Coverage:
        """Which concepts some latent detects with at least this F1, at its best threshold."""
        query = f"SELECT DISTINCT ON (concept) * FROM ({_CONCEPTS}) ORDER BY concept, f1 DESC, latent"
        best = sorted((ConceptScore(**row) for row in self._ask(query)), key=lambda score: -score.f1)
        return Coverage(f1, best, n_concepts=sum(n > 0 for n in self.summary.concepts.values()))

    def report(self) -> Report:
        """What `workbench sae index` prints."""
        return Report(str(self.directory), self.summary, self.coverage() if self.summary.concepts else None)

    def __str__(self) -> str:
        return str(self.report())

    def _contexts(self, wanted: Iterable[int]) -> dict[int, Row]:
        query = "SELECT * FROM read_parquet($file) WHERE context IN (SELECT unnest($wanted))"
        rows = self._ask(query, file=self._file("contexts"), wanted=sorted(set(wanted)))
        return {row["context"]: row for row in rows}

    def _example(self, row: Row, context: Row) -> Example:
        text = [position for position, document in enumerate(context["documents"]) if document >= 0]
        value = dict(zip(row["positions"], row["activations"], strict=True))
        return Example(
            tokens=[context["tokens"][position] for position in text],
            strings=[self._strings[context["tokens"][position]] for position in text],
            activations=[value.get(position, 0.0) for position in text],
            documents=[context["documents"][position] for position in text],
            peak=text.index(row["peak"]),
            band=row["band"] if row["band"] >= 0 else None,
        )

    def _rows(self, table: str, **span: int) -> dict[int, list[Row]]:
        """By latent: its rows of a table that stays on disk, in the order in which they were written."""
        query = f"SELECT * FROM read_parquet($file) WHERE {_SPAN} ORDER BY latent, place"
        rows = self._ask(query, file=self._file(table), **span)
        return {latent: list(group) for latent, group in groupby(rows, key=lambda row: row["latent"])}

    def _ask(self, query: str, **parameters: Any) -> Iterator[Row]:
        try:
            with self._database.cursor() as cursor:
                answer = cursor.execute(query, parameters)
                names = [column[0] for column in answer.description]
                return (dict(zip(names, row, strict=True)) for row in answer.fetchall())
        except duckdb.Error as error:
            raise DamagedFile(f"{self.directory} has a damaged feature index ({str(error).splitlines()[0]})") from None

    def _file(self, table: str) -> str:
        return str(table_path(self.directory, table))


def _in_use(histogram: list[int]) -> list[int]:
    """The histogram without the empty bins above the maximum."""
    last = max((i for i, count in enumerate(histogram) if count), default=-1)
    return histogram[: last + 1]


def _bands(histogram: list[int], bin_width: float) -> list[Band]:
    step = BINS // BANDS
    counts = [sum(histogram[i : i + step]) for i in range(0, len(_in_use(histogram)), step)]
    width = bin_width * step
    return [Band(i * width, (i + 1) * width, count) for i, count in enumerate(counts)]
