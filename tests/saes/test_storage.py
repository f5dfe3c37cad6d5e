"""SAE directories: what SAELens reads and writes, and what is wrong with a damaged one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saes.architectures import ARCHITECTURES
from saes.config import TrainConfig
from saes.storage import load_sae, save_sae
from workbench.errors import DamagedFile

WIDTHS = {"transcoder": (8, 6), "crosscoder": (5, 3)}
OURS_ALONE = {name for name in ARCHITECTURES if name.endswith("crosscoder")} | {
    "topk_transcoder",
    "topk_skip_transcoder",
}
METADATA = {"hook_name": "blocks.2.hook_resid_post", "model_name": "tinytown", "context_size": 128}


@pytest.fixture(params=ARCHITECTURES)
def sae(request):
    return build(request.param)


def build(architecture):
    """An SAE as it would be saved after training, with weights that are all different."""
    kind = ARCHITECTURES[architecture]
    options = TrainConfig(site="", out=Path(), architecture=architecture, d_sae=24, k=3)
    widths = WIDTHS.get(architecture.rpartition("_")[2], (8,))
    sae = kind(kind.shape(options, widths, METADATA))
    sae.initialise(torch.full((sae.width,), 2.0), 0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in sae.state_dict().items():
            if name == "topk_threshold":
                tensor.fill_(0.8)
            elif name not in ("W_enc", "W_dec"):
                tensor.add_(0.4 * torch.rand(tensor.shape, generator=generator))
        if architecture != "matching_pursuit":
            sae.W_dec.mul_(torch.linspace(0.5, 2.0, 24)[:, None])
    return sae.for_use().fold(0.7)


def inputs():
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(4)) + 2


def test_saved_and_loaded_is_the_same(sae, tmp_path):
    save_sae(sae, tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    assert loaded.cfg == sae.cfg or loaded.cfg.metadata.items() >= sae.cfg.metadata.items()
    assert loaded.site == "blocks.2.hook_resid_post"
    assert torch.equal(loaded.encode(inputs()), sae.encode(inputs()))
    assert torch.equal(loaded(inputs()), sae(inputs()))


@pytest.mark.parametrize("sae", sorted(set(ARCHITECTURES) - OURS_ALONE), indirect=True)
def test_sae_lens_opens_what_we_save(sae, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    save_sae(sae, tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path / "sae"))
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"
    assert theirs.cfg.metadata.model_name == "tinytown"
    latents = sae.encode(inputs())
    assert 0 < (latents > 0).sum() < latents.numel()
    torch.testing.assert_close(theirs.encode(inputs()), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs(inputs()), sae(inputs()), atol=1e-5, rtol=1e-5)


THEIRS = {
    "standard": ("Standard", {}),
    "standard, b_dec not applied": ("Standard", {"apply_b_dec_to_input": False}),
    "topk": ("TopK", {"k": 3}),
    "topk, rescaled": ("TopK", {"k": 3, "rescale_acts_by_decoder_norm": True}),
    "gated": ("Gated", {}),
    "jumprelu": ("JumpReLU", {}),
    "matching pursuit": ("MatchingPursuit", {"residual_threshold": 1.5, "max_iterations": 4}),
    "transcoder": ("Transcoder", {"d_out": 6, "apply_b_dec_to_input": False}),
    "skip transcoder": ("SkipTranscoder", {"d_out": 6, "apply_b_dec_to_input": False}),
    "jumprelu transcoder": ("JumpReLUTranscoder", {"d_out": 6, "apply_b_dec_to_input": False}),
    "jumprelu skip transcoder": ("JumpReLUSkipTranscoder", {"d_out": 6, "apply_b_dec_to_input": False}),
}


@pytest.mark.parametrize("case", THEIRS)
def test_we_open_what_sae_lens_saves(case, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    name, options = THEIRS[case]
    stem = name if "Transcoder" in name else f"{name}SAE"
    shape = {"d_in": 8, "d_sae": 24, "metadata": sae_lens.saes.sae.SAEMetadata(**METADATA)}
    theirs = getattr(sae_lens, stem)(getattr(sae_lens, f"{stem}Config")(**shape, **options))
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(generator=generator)
        if name == "MatchingPursuit":
            theirs.W_dec.div_(theirs.W_dec.norm(dim=1, keepdim=True))
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


@pytest.mark.parametrize("widths", [None, [8], [5, 4], "53", [5.0, 3.0], [8, 0]])
def test_a_crosscoder_must_say_what_belongs_to_each_site(widths, tmp_path):
    save_sae(build("crosscoder"), tmp_path)
    edit_cfg(tmp_path, widths=widths)
    with pytest.raises(DamagedFile, match=r"must give the widths of two sites or more, which add up to d_in \(8\)"):
        load_sae(tmp_path)


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
