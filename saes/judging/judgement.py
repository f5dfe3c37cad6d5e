"""All that can be said of an SAE, in one table and one JSON object."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from saes.evaluation import evaluate
from saes.judging.completeness import Completeness
from saes.judging.concepts import ConceptReport
from saes.judging.labelled import judge_corpus
from saes.judging.probing import SparseProbing, probe_texts
from saes.judging.stability import Stability, stability
from saes.judging.structure import Structure, structure
from saes.report import SAEReport, table_row
from saes.sae import SAE
from workbench.corpus import Corpus
from workbench.model import HookedModel


@dataclass(frozen=True)
class Judgement:
    """What `workbench sae eval` prints. A part is None where it does not apply."""

    report: SAEReport
    structure: Structure
    concepts: ConceptReport | None
    """None for a corpus without concept labels; so is `completeness`."""
    completeness: Completeness | None
    stability: Stability | None
    """None without other SAEs."""
    probing: SparseProbing | None
    """None without the user's labels."""

    @property
    def parts(self) -> dict[str, Any]:
        """The parts that apply, but the report."""
        names = ("structure", "concepts", "completeness", "stability", "probing")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def to_dict(self) -> dict[str, Any]:
        """The report's figures, and beside them one object for each part. What is not defined is None."""
        parts = {
            name: part.to_dict() if hasattr(part, "to_dict") else dict(vars(part)) for name, part in self.parts.items()
        }
        return _defined(self.report.to_dict() | parts)

    def __str__(self) -> str:
        tables = [
            f"{name.capitalize()}:\n" + "\n".join(map(table_row, part.rows())) for name, part in self.parts.items()
        ]
        return "\n".join([str(self.report), *tables])


def judge(
    sae: SAE,
    model: HookedModel,
    corpus: Corpus,
    n_tokens: int,
    *,
    others: Sequence[SAE] = (),
    labelled_texts: tuple[list[str], list[str]] | None = None,
    seed: int = 0,
    on_progress: Callable[[str, int], None] | None = None,
) -> Judgement:
    """Measure all that applies, on about `n_tokens` text tokens of the corpus (twice, if it has concept labels).

    `others`: SAEs for the same site, such as of other seeds, for stability. `labelled_texts`: texts and a label of
    each, for sparse probing. `on_progress` is called with what is done and the number of tokens.
    """

    def progress(what: str) -> Callable[[int], None] | None:
        return on_progress and (lambda done: on_progress(what, done))

    report = evaluate(sae, model, corpus, n_tokens, progress("measuring"))
    labelled = judge_corpus(sae, model, corpus, n_tokens, progress("concepts")) if corpus.concepts else None
    return Judgement(
        report=report,
        structure=structure(sae.W_dec, seed),
        concepts=labelled and labelled.concepts,
        completeness=labelled and labelled.completeness,
        stability=stability(sae.W_dec, [other.W_dec for other in others]) if others else None,
        probing=probe_texts(sae, model, *labelled_texts, seed=seed) if labelled_texts else None,
    )


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
