"""Compiled models compute their programs exactly, and their true edges are what a reader of the program expects."""

import pytest
import torch

from circuits.ablations import RESAMPLE, ZERO
from circuits.experiment import Experiment
from circuits.truth import programs
from circuits.truth.compiler import Head, Layer, Program, Variable, compile_program
from circuits.truth.edges import structural_edges
from circuits.truth.known import KNOWN, known_circuit
from tests.circuits.truth.plain import plain_logits
from workbench.errors import SettingError

PROGRAMS = (
    programs.reverse,
    programs.fraction,
    programs.next_in_order,
    programs.most_frequent,
    programs.or_gate,
)

REVERSE = {
    *("input->a0.h0<k>", "input->a0.h0<v>"),  # the end of the list: a token; what is found there: its position
    *("input->m0", "a0.h0->m0"),  # as far before the end as this position is behind it
    *("m0->a1.h0<q>", "input->a1.h0<k>", "input->a1.h0<v>"),  # the item at that position
    "a1.h0->logits",
}
FRACTION = {"input->m0", "m0->a1.h0<v>", "a1.h0->logits"}
NEXT = {"input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>", "a0.h0->logits"}
FREQUENT = {
    *("input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>"),  # the share of the beginning among equal tokens and it
    "a0.h0->m0",
    *("m0->a1.h0<k>", "input->a1.h0<k>", "input->a1.h0<v>"),  # the item of the highest count, ties by the alphabet
    "a1.h0->logits",
}
OR_GATE = {
    *("input->a0.h0<k>", "input->a0.h0<v>", "input->a0.h1<k>", "input->a0.h1<v>"),
    *("a0.h0->m0", "a0.h1->m0", "m0->logits"),
}
TRUTH = {
    "reverse": (REVERSE, REVERSE, {"input->a1.h0<v>", "a1.h0->logits"}),  # the end stands at one place in all prompts
    "fraction": (FRACTION, FRACTION, FRACTION),
    "next_in_order": (NEXT, NEXT, NEXT),
    "most_frequent": (FREQUENT, FREQUENT, FREQUENT - {"input->a0.h0<v>"}),  # every prompt has its beginning first
    "or_gate": (OR_GATE, {"m0->logits"}, {"m0->logits"}),  # either head does, so neither counts by itself
}
"""Structural, behavioural under zero and under resample ablation."""


@pytest.fixture(scope="module")
def circuits():
    return {name: known_circuit(name) for name in KNOWN}


def all_inputs(program):
    """The inputs of a program as tokens, and the logits that it should give: a pair for each length."""
    groups = {}
    for words in program.inputs():
        groups.setdefault(len(words), []).append(words)
    number = program.token.labels.index
    for group in groups.values():
        expected = torch.zeros(len(group), len(program.token.labels))
        for row, words in zip(expected, group, strict=True):
            for token, logit in program.answer(words).items():
                row[number(token)] = logit
        yield torch.tensor([[number(word) for word in words] for words in group]), expected


@pytest.mark.parametrize("make", PROGRAMS)
def test_the_model_computes_the_program_on_all_inputs(make):
    program = make()
    model = compile_program(program)
    count = 0
    for tokens, expected in all_inputs(program):
        assert (model.run(tokens).logits[:, -1] - expected).abs().max() < 1e-5
        count += len(tokens)
    assert (
        count
        == {"reverse": 3630, "fraction": 1364, "next_in_order": 3905, "most_frequent": 363, "or_gate": 4}[program.name]
    )


def test_some_answers_in_plain_words():
    assert programs.reverse().answer(tuple("abca]ac")) == {"b": 1}
    assert programs.fraction().answer(tuple("xwxz")) == {"x": 0.5}
    assert programs.next_in_order().answer(tuple("^dbcb")) == {"c": 1}
    assert programs.next_in_order().answer(tuple("^db]")) == {"b": 1}
    assert programs.next_in_order().answer(tuple("^adc]d")) == {"]": 1}
    assert programs.most_frequent().answer(tuple("^abbac")) == {"b": 1}
    assert programs.or_gate().answer(tuple("01=")) == {"1": 1}


def test_longer_programs_compile_as_well():
    program = programs.most_frequent("abcdef", 3)
    for tokens, expected in all_inputs(program):
        assert (compile_program(program).run(tokens).logits[:, -1] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", TRUTH)
def test_true_edges_are_those_that_the_program_says(circuits, name):
    assert list(circuits[name].truths.values()) == list(TRUTH[name])
    assert list(circuits[name].truths)[1:] == ["behavioural, zero ablation", "behavioural, resample ablation"]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("ablation", [ZERO, RESAMPLE])
def test_behavioural_edges_are_those_of_a_plain_brute_force(circuits, name, ablation):
    known = circuits[name]
    model, pairs = known.model, known.pairs
    clean, _ = plain_logits(model, pairs.clean)
    torch.testing.assert_close(clean, model.run(pairs.clean).logits[:, -1])
    instead = None if ablation is ZERO else plain_logits(model, pairs.corrupted)[1]
    graph = Experiment(model, pairs).graph
    moved = set()
    for edge in graph.names(graph.edges):
        logits, _ = plain_logits(model, pairs.clean, [edge], instead)
        if (logits - clean).abs().max() > 1e-3:
            moved.add(edge)
    assert moved == known.behavioural(ablation)


@pytest.mark.parametrize("name", KNOWN)
def test_edges_that_change_anything_are_wired(circuits, name):
    known = circuits[name]
    assert known.behavioural(ZERO) | known.behavioural(RESAMPLE) <= known.structural


def test_graphs_are_as_small_as_those_of_the_compiled_models_in_the_literature(circuits):
    edges = {name: Experiment(known.model, known.pairs).graph.n_edges for name, known in circuits.items()}
    assert edges["reverse"] == edges["fraction"] == 23  # two layers of one head, the embeddings as one node
    assert edges == edges | {"next_in_order": 8, "most_frequent": 23, "or_gate": 13, "micro": 29}


@pytest.mark.parametrize("name", KNOWN)
def test_pairs_ask_for_something_that_the_corrupted_prompt_does_not_say(circuits, name):
    known = circuits[name]
    pairs = known.pairs
    clean, corrupted = (known.model.run(tokens).logits[:, -1] for tokens in (pairs.clean, pairs.corrupted))
    rows = torch.arange(len(pairs))
    difference = [logits[rows, pairs.answers] - logits[rows, pairs.distractors] for logits in (clean, corrupted)]
    assert (difference[0] > difference[1]).all()
    assert known.model.to_tokens(known.model.to_string(pairs.clean[0])).equal(pairs.clean[:1])


def test_attention_is_hard(circuits):
    known = circuits["reverse"]
    run = known.model.run(known.pairs.clean, capture=["blocks.*.attn.hook_pattern"])
    pattern = run.stack("blocks.*.attn.hook_pattern")[:, :, 0, -1]
    assert set(pattern.unique().tolist()) == {0.0, 1.0}
    assert (pattern[0].argmax(-1) == 4).all()  # the end of the list
    assert (pattern[1].argmax(-1) == 2).all()  # one item has been said, so the last but one


def test_every_site_of_a_head_and_an_mlp_is_there(circuits):
    sites = circuits["reverse"].model.sites
    for site in ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_pattern", "mlp.hook_post"):
        assert f"blocks.1.{site}" in sites
    assert circuits["reverse"].model.info.positional == "learned"
    assert circuits["reverse"].model.info.normalization == "none"


def test_attention_that_looks_for_nothing_has_no_edge_into_queries_and_keys():
    token, position, copied = (Variable(name, ("0", "1")) for name in ("token", "position", "copied"))
    layers = (Layer((Head(copied, token),)),)
    program = Program("mean", "bits", "their mean", token, position, layers, copied, lambda _: {}, lambda: ())
    assert structural_edges(compile_program(program)) == {"input->a0.h0<v>", "a0.h0->logits"}


def test_what_makes_no_sense_is_refused():
    with pytest.raises(SettingError, match="no known circuit 'sort'; they are reverse, "):
        known_circuit("sort")
    token, position = Variable("token", ("0", "1")), Variable("position", (0, 1))
    twice = (Layer((Head(token, token),)),)
    with pytest.raises(ValueError, match="two nodes write one variable"):
        compile_program(Program("twice", "", "", token, position, twice, token, lambda _: {}, lambda: ()))
