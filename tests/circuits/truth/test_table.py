"""The truth table: which methods must find a program's edges and which cannot, by hand; its command and its picture."""

import json

import pytest

from circuits.ablations import RESAMPLE, ZERO
from circuits.methods import METHODS
from circuits.options import MethodName
from circuits.truth.cli import ProgramName, TruthOptions, truth
from circuits.truth.edges import STRUCTURAL, behavioural_under
from circuits.truth.known import KNOWN
from circuits.truth.table import PROGRAMS, TruthTable, truth_table
from workbench.cli.main import run_command
from workbench.errors import SettingError
from workbench.figures import truth as figures
from workbench.figures.frame import reading
from workbench.metrics import L2, LOGIT_DIFFERENCE

pytestmark = pytest.mark.slow  # most of these tests need the whole table

ABLATIONS = [ZERO.name, RESAMPLE.name]
BY_ZERO, BY_RESAMPLE = map(behavioural_under, (ZERO, RESAMPLE))
OWN = {ZERO.name: BY_ZERO, RESAMPLE.name: BY_RESAMPLE}
"""The truth that an ablation asks for."""


@pytest.fixture(scope="module")
def table() -> TruthTable:
    return truth_table(methods=("eap", "eap-ig", "clean-corrupted", "exact", "flow", "acdc", "random"))


def areas(table, method, program, ablation, truth):
    found = table.block(ablation, truth)[method, program]
    return found.auroc, found.auc


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("program", KNOWN)
def test_exact_effects_find_all_edges_that_their_ablation_shows(table, program, ablation):
    assert areas(table, "exact", program, ablation, OWN[ablation]) == (1, 1)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("program", [name for name in KNOWN if name != "or_gate"])
def test_acdc_finds_all_edges_that_its_ablation_shows(table, program, ablation):
    assert areas(table, "acdc", program, ablation, OWN[ablation]) == (1, 1)


def test_acdc_under_the_wrong_ablation_finds_what_that_ablation_shows(table):
    """Of `reverse` under resample ablation two of the eight edges, the other six tied with fifteen false ones; under
    zero ablation all eight, of which resampling shows two. (Conmy et al. 2023, table 3: 1.000 and .200 of theirs.)
    """
    assert areas(table, "acdc", "reverse", "resample", BY_ZERO) == pytest.approx((2 / 8 + 6 / 8 / 2, 2 / 8))
    assert areas(table, "acdc", "reverse", "zero", BY_RESAMPLE) == pytest.approx((1 - 6 / 21 / 2, 1 - 6 / 21))
    for program in ("reverse", "most_frequent"):
        for ablation, other in ((ZERO.name, BY_RESAMPLE), (RESAMPLE.name, BY_ZERO)):
            assert max(areas(table, "acdc", program, ablation, other)) < 1


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_acdc_keeps_one_side_of_the_or_gate_which_no_single_edge_is_true_of(table, ablation):
    """The one true edge is tied with two of the twelve others: a head's output and its values, without any of which the
    gate is shut. (Without its keys the head takes the mean of 1, 1 and =, which leaves two thirds.)
    """
    expected = (1 - 2 / 12 / 2, 1 - 2 / 12)
    assert areas(table, "acdc", "or_gate", ablation, OWN[ablation]) == pytest.approx(expected)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_gradients_are_exact_on_the_linear_model_and_the_mean(table, ablation):
    for method in ("eap", "eap-ig", "clean-corrupted"):
        for program in ("micro", "fraction"):
            assert areas(table, method, program, ablation, OWN[ablation]) == (1, 1)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_gradient_of_hard_attention_is_zero(table, ablation):
    """`next_in_order` finds by queries and keys and says by values: a gradient sees the latter two of its four edges.

    Steps on the way to the clean embedding come by where attention is soft.
    """
    assert areas(table, "eap", "next_in_order", ablation, OWN[ablation]) == (0.75, 0.5)
    assert areas(table, "eap-ig", "next_in_order", ablation, OWN[ablation]) == (1, 1)


def test_random_rankings_know_nothing(table):
    values = [one.auroc for one in table.found if one.method == "random"]
    assert len(values) == len(KNOWN) * 2 * 3
    assert all(0.44 < value < 0.56 for value in values)


def test_flow_does_not_ask_what_is_ablated(table):
    for program in KNOWN:
        by_zero, by_resample = (areas(table, "flow", program, ablation, STRUCTURAL) for ablation in ABLATIONS)
        assert by_zero == by_resample


def test_the_metric_decides_what_can_be_seen():
    """The squared distance from the clean logits has no slope there; and the edge from the input to the logits of the
    micro-model moves both logits alike, which their difference does not tell: one of three true edges a false one ties.
    """
    far = truth_table(["micro"], ["eap", "exact"], metric=L2).block("zero", BY_ZERO)
    assert (far["eap", "micro"].auroc, far["eap", "micro"].auc) == (0.5, 0)
    assert (far["exact", "micro"].auroc, far["exact", "micro"].auc) == (1, 1)
    blind = truth_table(["micro"], ["exact"], metric=LOGIT_DIFFERENCE).block("zero", BY_ZERO)["exact", "micro"]
    assert blind.n_true == 13
    assert blind.auroc == pytest.approx(12 / 13 + 1 / 13 / 2)
    assert blind.auc == pytest.approx(12 / 13)


def test_the_table_as_text_json_and_picture(table):
    text = str(table)
    assert "Methods under resample ablation; true edges: behavioural, resample ablation" in text
    assert "8 of 23" in text
    (row,) = {line for line in text.split("\n") if line.startswith("exact") and line.count("1.000 1.000") == len(KNOWN)}
    assert row.split()[1:] == ["1.000"] * 2 * len(KNOWN)
    found = table.to_dict()["found"]
    assert len(found) == 7 * len(KNOWN) * 2 * 3
    assert {one["truth"] for one in found} == {STRUCTURAL, BY_ZERO, BY_RESAMPLE}
    picture = figures.figure(table)
    assert len(picture.data) == 6
    assert picture.layout.annotations[5].text == "resample ablation; true: behavioural, resample ablation"
    last = picture.data[5]
    assert last.z[last.y.index("acdc")][last.x.index("or_gate")] == pytest.approx(11 / 12)
    assert "AUROC" in reading(picture)


def test_the_command(capsys, tmp_path):
    path = tmp_path / "truth.html"
    words = ["--programs", "micro", "--methods", "eap", "random", "--figure", str(path), "--json"]
    assert run_command("circuit truth", truth, words) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert [(one["method"], one["auroc"]) for one in found if one["method"] == "eap"] == [("eap", 1.0)] * 6
    assert "True edges found" in path.read_text()


def test_names_are_those_of_the_libraries():
    assert TruthOptions().programs == tuple(KNOWN)
    assert TruthOptions().methods == tuple(METHODS) == MethodName.__args__
    assert ProgramName.__args__ == tuple(PROGRAMS)
    with pytest.raises(SettingError, match="no known circuit 'revers'; did you mean 'reverse'"):
        truth_table(["revers"])
    with pytest.raises(SettingError, match="no method 'eapig'"):
        truth_table(["micro"], ["eapig"])
