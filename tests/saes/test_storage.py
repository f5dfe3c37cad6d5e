"""SAE directories: what SAELens reads and writes, and what is wrong with a damaged one."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from saes.architectures import ARCHITECTURES
from saes.sae import SAEConfig
from saes.storage import load_sae, save_sae
from workbench.errors import DamagedFile

METADATA = {"hook_name": "blocks.2.hook_resid_post", "model_name": "tinytown", "context_size": 128}


@pytest.fixture(params=ARCHITECTURES)
def sae(request):
    return build(request.param)


def build(architecture):
    k = 3 if architecture == "topk" else None
    sae = ARCHITECTURES[architecture](SAEConfig(8, 24, k, metadata=METADATA)).initialise(inputs().mean(0), 0)
    with torch.no_grad():
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(5))
        sae.W_enc.mul_(1.7)
    return sae.requires_grad_(False)


def inputs():
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(4)) + 2


def test_saved_and_loaded_is_the_same(sae, tmp_path):
    save_sae(sae, tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    assert loaded.cfg == sae.cfg or loaded.cfg.metadata.items() >= sae.cfg.metadata.items()
    assert loaded.site == "blocks.2.hook_resid_post"
    assert torch.equal(loaded.encode(inputs()), sae.encode(inputs()))
    assert torch.equal(loaded(inputs()), sae(inputs()))


def test_sae_lens_opens_what_we_save(sae, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    save_sae(sae, tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    assert theirs.cfg.metadata.model_name == "tinytown"
    torch.testing.assert_close(theirs.encode(inputs()), sae.encode(inputs()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs(inputs()), sae(inputs()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["standard", "standard, b_dec not applied", "topk", "topk, rescaled"])
def test_we_open_what_sae_lens_saves(case, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    shape = {"d_in": 8, "d_sae": 24, "metadata": sae_lens.saes.sae.SAEMetadata(**METADATA)}
    if case.startswith("standard"):
        config = sae_lens.StandardSAEConfig(**shape, apply_b_dec_to_input=case == "standard")
        theirs = sae_lens.StandardSAE(config)
    else:
        theirs = sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**shape, k=3, rescale_acts_by_decoder_norm="resc" in case))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(generator=generator)
    theirs.save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert ours.site == "blocks.2.hook_resid_post"
    torch.testing.assert_close(ours.encode(inputs()), theirs.encode(inputs()), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(ours(inputs()), theirs(inputs()), atol=1e-4, rtol=1e-5)


def test_files_hold_what_the_format_asks_for(tmp_path):
    save_sae(build("topk"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    expected = {"architecture": "topk", "d_in": 8, "d_sae": 24, "k": 3, "dtype": "float32"}
    assert expected.items() <= cfg.items()
    assert int(cfg["metadata"]["sae_lens_version"].split(".")[0]) >= 6
    shapes = {name: list(tensor.shape) for name, tensor in load_file(tmp_path / "sae_weights.safetensors").items()}
    assert shapes == {"W_enc": [8, 24], "b_enc": [24], "W_dec": [24, 8], "b_dec": [8]}


def edit_cfg(directory, **changes):
    path = directory / "cfg.json"
    cfg = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in cfg.items() if value is not None}))


def truncate(directory):
    path = directory / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def drop_tensor(directory):
    path = directory / "sae_weights.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "b_dec"}, path)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: (d / "cfg.json").unlink(), "cfg.json is missing"),
        (lambda d: (d / "sae_weights.safetensors").unlink(), "sae_weights.safetensors is missing"),
        (lambda d: (d / "cfg.json").write_text("{"), "cfg.json is not valid JSON"),
        (lambda d: (d / "cfg.json").write_text("[1]"), "names no architecture"),
        (truncate, "sae_weights.safetensors is truncated"),
        (drop_tensor, "missing or surplus: b_dec"),
        (lambda d: edit_cfg(d, architecture="temporal"), 'architecture "temporal"; known here are'),
        (lambda d: edit_cfg(d, d_sae=25), r"W_enc has the shape \[8, 24\] where cfg.json promises \[8, 25\]"),
        (lambda d: edit_cfg(d, k=None), "must give k as a whole number"),
        (lambda d: edit_cfg(d, k=30), "k must be at most d_sae"),
        (lambda d: edit_cfg(d, d_in="8"), "must give d_in as a whole number"),
        (lambda d: edit_cfg(d, normalize_activations="layer_norm"), "layer_norm"),
    ],
)
def test_damage_is_named_in_one_line(damage, complaint, tmp_path):
    save_sae(build("topk"), tmp_path)
    damage(tmp_path)
    with pytest.raises(DamagedFile, match=complaint) as caught:
        load_sae(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_path_that_is_no_directory(tmp_path):
    with pytest.raises(DamagedFile, match="not the directory of an SAE"):
        load_sae(tmp_path / "nothing")


def test_a_full_disk_leaves_the_earlier_sae_whole(tmp_path, monkeypatch):
    """The weights still fit, the configuration no longer does."""
    old, new = build("topk"), build("standard")
    save_sae(old, tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saes.storage.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save_sae(new, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert torch.equal(load_sae(tmp_path)(inputs()), old(inputs()))
    with pytest.raises(OSError, match="No space left"):
        save_sae(new, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
