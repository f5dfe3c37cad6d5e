"""`workbench patch` and `workbench ablate` as a person types them."""

import json

import pytest

from workbench.ablation import ablation_study
from workbench.cli import ablate, patch
from workbench.cli.main import run_command
from workbench.patching import activation_patching
from workbench.tinytown.tasks import task_prompts


def run(module, capsys, *arguments):
    status = run_command(module.__name__.rpartition(".")[2], module.command, [str(one) for one in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_heads_are_patched_as_by_the_function(capsys, tinytown):
    status, out, _ = run(patch, capsys, "--examples", 16)
    assert status == 0
    assert out.strip() == str(activation_patching(tinytown, task_prompts("ioi", 16), "blocks.*.attn.hook_z", ["head"]))


def test_a_preview_is_set_beside_the_exact_sweep(capsys):
    status, out, _ = run(patch, capsys, "--examples", 16, "--method", "both", "--by", "head", "position")
    assert status == 0
    assert "Attribution patching against activation patching" in out


def test_parts_are_ablated_on_a_task_and_on_a_text(capsys, tinytown):
    status, out, _ = run(ablate, capsys, "--task", "agreement", "--examples", 24, "--how", "zero")
    assert status == 0
    expected = ablation_study(tinytown, task_prompts("agreement", 24), "blocks.*.attn.hook_z", ["head"], how="zero")
    assert out.strip() == str(expected)
    status, out, _ = run(ablate, capsys, "--corpus", "tinytown", "--examples", 4, "--context", 8, "--json")
    assert status == 0
    assert json.loads(out)["metric"] == "loss"


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        (patch, ("--task", "iio"), "no task 'iio'"),
        (patch, ("--task", "missing.jsonl"), "No such file"),
        (patch, ("--site", "blocks.*.hook_zz"), "no site"),
        (patch, ("--by", "layer"), "layer"),
        (patch, ("--metric", "logits"), "no metric"),
        (patch, ("--figure", "heads.png"), "--figure is an .html or .json file"),
        (patch, ("--examples", "0"), "at least 1"),
        (ablate, ("--task", "ioi", "--corpus", "tinytown"), "either a task or a corpus"),
        (ablate, ("--corpus", "missing.txt"), "missing.txt"),
        (ablate, ("--by", "neuron"), "neuron"),
    ],
)
def test_mistakes_are_named_in_a_line(capsys, module, arguments, says):
    status, out, error = run(module, capsys, *arguments)
    assert status in (1, 2)
    assert not out
    assert says in error
    assert error.count("\n") == 1
