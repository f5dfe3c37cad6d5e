"""Figures: the numbers in their JSON and CSV are those of the result."""

import csv
import io
import json
import math
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

from workbench.attention import AttentionPatterns
from workbench.figures import attention, features, heads, lens, theme
from workbench.figures.frame import reading, title
from workbench.figures.table import array, to_csv, to_json
from workbench.figures.text import label, visible
from workbench.heads import HeadScores
from workbench.lens import LensResult

WORDS = ["<bos>", "The", " cat", "\n"]


def sent(figure: go.Figure) -> dict[str, Any]:
    """A figure as the browser gets it."""
    return json.loads(figure.to_json())


def rows(figure: go.Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(sent(figure)))))


@pytest.fixture
def patterns() -> AttentionPatterns:
    scores = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    future = torch.ones(4, 4, dtype=torch.bool).triu(1)
    return AttentionPatterns(torch.arange(4), WORDS, scores.masked_fill(future, -torch.inf).softmax(-1))


@pytest.fixture
def read() -> LensResult:
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(3, 4, 2, generator=generator).sort(dim=-1, descending=True).values / 2
    return LensResult(
        tokens=torch.arange(4),
        strings=WORDS,
        sites=["a", "b", "c"],
        labels=["embed", "0", "1"],
        top_tokens=torch.zeros(3, 4, 2, dtype=torch.long),
        top_strings=[[[f"<r{row}p{pos}>", "x"] for pos in range(4)] for row in range(3)],
        top_probs=probs,
        entropy=torch.rand(3, 4, generator=generator) * 3,
        kl_to_final=torch.rand(3, 4, generator=generator),
        final_rank=torch.tensor([[100, 10, 1, 5]] * 3),
        next_rank=torch.tensor([[1000, 2, 30]] * 3),
        next_prob=torch.rand(3, 3, generator=generator),
    )


def test_one_heads_figure_holds_its_pattern(patterns: AttentionPatterns) -> None:
    table = rows(attention.head(patterns, 1, 2))
    assert len(table) == 10
    for row in table:
        query, key = int(row["query"]), int(row["key"])
        assert float(row["attention"]) == pytest.approx(patterns.patterns[1, 2, query, key].item(), rel=1e-5)
        assert (row["query token"], row["key token"]) == (WORDS[query], WORDS[key])


def test_the_grid_holds_every_pattern_once(patterns: AttentionPatterns) -> None:
    table = rows(attention.grid(patterns))
    assert len(table) == 2 * 3 * 10
    for row in table:
        at = tuple(int(row[name]) for name in ("layer", "head", "query", "key"))
        assert float(row["attention"]) == pytest.approx(patterns.patterns[at].item(), rel=1e-5)


def test_a_grid_too_large_to_send_shows_the_largest_of_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)).tril()
    monkeypatch.setattr(attention, "CELLS", 9)
    figure = attention.grid(AttentionPatterns(torch.arange(5), list("abcde"), pattern))
    table = {(int(row["query"]), int(row["key"])): float(row["attention"]) for row in rows(figure)}
    assert table[2, 0] == pytest.approx(pattern[0, 0, 2:4, 0:2].max().item(), rel=1e-5)
    assert table[4, 4] == pytest.approx(pattern[0, 0, 4, 4].item(), rel=1e-5)
    assert "2 × 2" in reading(figure)


def test_a_model_that_sees_the_future_keeps_it(patterns: AttentionPatterns) -> None:
    both_ways = AttentionPatterns(patterns.tokens, WORDS, torch.full((1, 1, 4, 4), 0.25))
    assert len(rows(attention.head(both_ways, 0, 0))) == 16


def test_head_scores_stand_in_their_cells() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.25]])
    result = HeadScores(scores, scores, scores.T, 5.0, 1.0, length=50, batch=8, seed=0)
    table = rows(heads.scores(result, "induction"))
    assert {(row["layer"], row["head"]): float(row["induction"]) for row in table} == {
        ("0", "0"): 0.1,
        ("0", "1"): 0.5,
        ("1", "0"): 0.9,
        ("1", "1"): 0.25,
    }


@pytest.mark.parametrize("show", lens.MEASURES)
def test_the_lens_shows_what_was_measured(read: LensResult, show: str) -> None:
    expected = {
        "probability": read.top_probs[..., 0],
        "next": read.next_prob,
        "rank": read.next_rank.log10(),
        "final": read.final_rank.log10(),
        "entropy": read.entropy,
        "kl": read.kl_to_final,
    }[show]
    figure = lens.figure(read, show, "number")
    cells = array(sent(figure)["data"][0]["z"])
    n = expected.shape[1]
    assert cells[:, :n] == pytest.approx(expected.numpy(), rel=1e-5)
    assert all(math.isnan(value) for value in cells[:, n:].flatten())
    assert len(rows(figure)) == expected.numel()


def test_the_lens_writes_its_top_tokens_harmlessly(read: LensResult) -> None:
    figure = lens.figure(read)
    assert figure.data[0].text[2][1] == "&lt;r2p1&gt;"
    assert "&lt;r2p1&gt;" in figure.data[0].customdata[2][1]
    assert rows(figure)[0]["top token"] == "<r0p0>"


def test_the_histogram_counts_what_the_index_counted() -> None:
    table = rows(features.histogram([5, 0, 2], 0.5, n_tokens=1000))
    assert [(float(r["from"]), float(r["to"]), int(r["tokens"])) for r in table] == [
        (0.0, 0.5, 5),
        (0.5, 1.0, 0),
        (1.0, 1.5, 2),
    ]
    assert "7 of the 1,000" in reading(features.histogram([5, 0, 2], 0.5, n_tokens=1000))


def test_logits_run_from_the_most_raised_to_the_most_lowered() -> None:
    figure = features.logits([("a", 3.0), ("b", 2.0)], [("z", -4.0), ("y", -1.0)])
    table = rows(figure)
    assert [row["token"] for row in table] == ["a", "b", "y", "z"]
    assert [float(row["logit effect"]) for row in table] == [3.0, 2.0, -1.0, -4.0]


def test_densities_count_every_live_latent() -> None:
    figure = features.densities([0.0, 1e-4, 1e-2, 1e-2, 0.5, 1.0], n_tokens=10_000)
    assert sum(int(row["latents"]) for row in rows(figure)) == 5
    assert "1 never fired" in reading(figure)
    assert "never fired" in reading(features.densities([0.0, 0.0], n_tokens=10))


def test_every_figure_says_what_it_shows(patterns: AttentionPatterns, read: LensResult) -> None:
    for figure in (attention.grid(patterns), attention.head(patterns, 0, 0), lens.figure(read, "kl")):
        assert title(figure)
        assert reading(figure).count(":") >= 2
        assert figure.layout.template.layout.paper_bgcolor == theme.LIGHT_PALETTE.surface


def test_json_export_is_plain_numbers(patterns: AttentionPatterns) -> None:
    exported = json.loads(to_json(sent(attention.head(patterns, 0, 0))))
    z = exported["data"][0]["z"]
    assert z[0][1] is None
    assert z[3] == pytest.approx(patterns.patterns[0, 0, 3].tolist(), rel=1e-5)
    assert "template" not in exported["layout"]


def test_csv_cannot_start_a_formula() -> None:
    table = to_csv(sent(features.logits([("=1+1", 1.0), ("-", 0.5), ("@x", 0.25)], [])))
    assert "'=1+1" in table
    assert "\n-," in table
    assert "'@x" in table


def test_tokens_are_visible_and_harmless() -> None:
    assert [visible(token) for token in (" a", "\n", "  ", "", "a b")] == ["·a", "↵", "··", "∅", "a b"]
    signs = {"\x00": "␀", " \x1b[": "·␛[", "\x7f": r"\u007f", "\ud800": r"\ud800", "é": "é"}
    assert {token: visible(token) for token in signs} == signs
    assert label("<a href='javascript:x'>") == "&lt;a href='javascript:x'&gt;"
