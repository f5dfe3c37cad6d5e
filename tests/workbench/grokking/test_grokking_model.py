"""The adder against transformer-lens's own model, and its training against one that is broken off."""

import pytest
import torch

from workbench.edits import ablate
from workbench.errors import DamagedFile, SettingError, TrainingError
from workbench.grokking.model import Adder, all_logits, all_pairs, as_tokens, hooked
from workbench.grokking.setting import Setting
from workbench.grokking.training import Trainer, scores, split, train

SETTING = Setting(p=11, fraction=0.5, d_model=16, n_heads=2, d_mlp=24, steps=12)


@pytest.fixture
def adder() -> Adder:
    adder = Adder(SETTING)
    with torch.no_grad():
        for bias in (adder.b_in, adder.b_out):
            bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(1)))
    return adder


def test_the_adder_is_the_hooked_model_at_the_last_position(adder):
    model = hooked(adder)
    logits = model.run(as_tokens(all_pairs(11), 11)).logits[:, -1]
    torch.testing.assert_close(all_logits(adder).flatten(0, 1), logits, atol=1e-5, rtol=1e-5)
    assert (model.info.normalization, model.info.positional, model.info.n_layers) == ("none", "learned", 1)


def test_every_activation_can_be_edited(adder):
    model, tokens = hooked(adder), torch.tensor([[3, 4, 11]])
    silent = [ablate("blocks.0.attn.hook_z"), ablate("blocks.0.mlp.hook_post")]
    left = (adder.W_E[11] + adder.W_pos[2] + adder.b_out) @ adder.W_U.T
    torch.testing.assert_close(model.run(tokens, edits=silent).logits[0, -1], left.detach(), atol=1e-5, rtol=1e-5)


def test_the_split_is_of_all_sums():
    train_part, test_part = split(SETTING)
    assert len(train_part) == 60
    assert sorted(torch.cat([train_part, test_part]).tolist()) == list(range(121))


def test_scores_of_known_logits():
    target = all_pairs(11).sum(1) % 11
    right = 5.0 * torch.nn.functional.one_hot(target, 11).float()
    _, test_part = split(SETTING)
    right[test_part] = 0
    found = scores(right.unflatten(0, (11, 11)), SETTING)
    assert found.train_loss == pytest.approx(torch.tensor(1 + 10 * 2.718281828**-5).log().item())
    assert found.test_loss == pytest.approx(torch.tensor(11.0).log().item())
    assert found.train_accuracy == 1
    assert found.test_accuracy == pytest.approx((target[test_part] == 0).double().mean().item())


def test_a_training_goes_on_bit_for_bit():
    through, first, second = (Trainer(SETTING) for _ in range(3))
    for _ in range(12):
        through.advance()
    for _ in range(5):
        first.advance()
    second.restore(first.state())
    for _ in range(7):
        second.advance()
    assert second.step == 12
    for name, weight in through.adder.state_dict().items():
        assert torch.equal(weight, second.adder.state_dict()[name]), name


def test_checkpoints_are_from_the_first_to_the_last():
    found = train(SETTING, every=5)
    assert [one.step for one in found] == [0, 5, 10, 12]
    trainer = Trainer(SETTING)
    for _ in range(5):
        trainer.advance()
    assert torch.equal(trainer.adder.W_E, found[1].weights["W_E"])
    with pytest.raises(DamagedFile, match="step 5 does not hold the weights"):
        found[1].adder(Setting(p=13))


def test_a_state_of_something_else_is_refused():
    trainer, other = Trainer(SETTING), Trainer(Setting(p=13))
    for state in ({}, other.state()):
        with pytest.raises(DamagedFile, match="not the state of such a training") as error:
            trainer.restore(state)
        assert "\n" not in str(error.value)


def test_a_loss_that_is_no_number_ends_the_training():
    trainer = Trainer(SETTING)
    with torch.no_grad():
        trainer.adder.W_U.fill_(torch.inf)
    with pytest.raises(TrainingError, match="try a lower --learning-rate"):
        trainer.advance()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"p": 4}, "--p must be an odd number"),
        ({"p": 10}, "--p must be an odd number"),
        ({"fraction": 1.0}, "--fraction must be between 0 and 1"),
        ({"fraction": 1e-9}, "--fraction must be between 0 and 1"),
        ({"d_model": 0}, "--d-model must be at least 1"),
        ({"d_model": 30}, "must be a multiple of --n-heads"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be above 0"),
        ({"weight_decay": -1.0}, "--weight-decay must be 0 or more"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"steps": 0}, "--steps must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, says):
    with pytest.raises(SettingError, match=says):
        Setting(**setting)
