"""Foreign directories, built from their documented shapes: the imported SAE computes the documented formula."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saes.architectures import ARCHITECTURES
from saes.formats.importing import import_sae
from saes.storage import load_sae
from workbench.errors import DamagedFile, SettingError

D_IN, D_SAE, K = 6, 20, 3


def random_weights(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name.replace("__", "."): torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def top_k(pre: Tensor, k: int) -> Tensor:
    values, indices = pre.relu().topk(k)
    return torch.zeros_like(pre).scatter(1, indices, values)


def auto_encoder(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    latents = ((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    return latents, latents @ w["decoder.weight"].T + w["bias"]


def auto_encoder_new(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    latents = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    return latents, latents @ w["decoder.weight"].T + w["decoder.bias"]


def auto_encoder_top_k(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    latents = top_k((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], K)
    return latents, latents @ w["decoder.weight"].T + w["b_dec"]


def batch_top_k(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    pre = ((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    latents = pre * (pre > w["threshold"])
    return latents, latents @ w["decoder.weight"].T + w["b_dec"]


def matryoshka(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    pre = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    latents = pre * (pre > w["threshold"])
    return latents, latents @ w["W_dec"] + w["b_dec"]


def jump_relu(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    pre = x @ w["W_enc"] + w["b_enc"]
    raw = (pre * (pre > w["threshold"])).relu()
    return raw * w["W_dec"].norm(dim=1), raw @ w["W_dec"] + w["b_dec"]


def gated(w: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    encoded = (x - w["decoder_bias"]) @ w["encoder.weight"].T
    magnitude = (w["r_mag"].exp() * encoded + w["mag_bias"]).relu()
    raw = magnitude * (encoded + w["gate_bias"] > 0)
    return raw * w["decoder.weight"].norm(dim=0), raw @ w["decoder.weight"].T + w["decoder_bias"]


LINEAR = {"encoder__weight": (D_SAE, D_IN), "decoder__weight": (D_IN, D_SAE)}
BIASED = LINEAR | {"encoder__bias": (D_SAE,), "b_dec": (D_IN,)}
PLAIN = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
WIDE = {"r_mag": (D_SAE,), "gate_bias": (D_SAE,), "mag_bias": (D_SAE,), "decoder_bias": (D_IN,)}
CASES: dict[str, tuple[dict, dict, Callable]] = {
    "AutoEncoder": (LINEAR | {"encoder__bias": (D_SAE,), "bias": (D_IN,)}, {}, auto_encoder),
    "AutoEncoderNew": (LINEAR | {"encoder__bias": (D_SAE,), "decoder__bias": (D_IN,)}, {}, auto_encoder_new),
    "AutoEncoderTopK": (BIASED, {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)}, auto_encoder_top_k),
    "BatchTopKSAE": (BIASED, {"k": torch.tensor(K), "threshold": torch.tensor(0.7)}, batch_top_k),
    "MatryoshkaBatchTopKSAE": (PLAIN, {"threshold": torch.tensor(0.7), "k": torch.tensor(K)}, matryoshka),
    "JumpReluAutoEncoder": (PLAIN | {"threshold": (D_SAE,)}, {}, jump_relu),
    "GatedAutoEncoder": (LINEAR | WIDE, {}, gated),
}


def save_trainer(directory: Path, kind: str, weights: dict[str, Tensor], **trainer: object) -> Path:
    directory.mkdir()
    facts = {"dict_class": kind, "k": K, "layer": 2, "lm_name": "gpt2", "submodule_name": "resid_post_layer_2"}
    config = {"trainer": facts | trainer, "buffer": {"ctx_len": 64}}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(weights, directory / "ae.safetensors")
    return directory


def check(directory: Path, x: Tensor, latents: Tensor, reconstruction: Tensor) -> None:
    """By SAELens itself, and by our own reader if it knows the architecture."""
    from sae_lens import SAE

    assert (latents > 0).any()
    loaded = [SAE.load_from_disk(directory)]
    if json.loads((directory / "cfg.json").read_text())["architecture"] in ARCHITECTURES:
        loaded.append(load_sae(directory))
    for sae in loaded:
        with torch.no_grad():
            torch.testing.assert_close(sae.encode(x), latents, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(sae.decode(sae.encode(x)), reconstruction, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CASES)
def test_dictionary_learning(kind: str, tmp_path: Path):
    shapes, extra, formula = CASES[kind]
    weights = random_weights(**shapes) | extra
    x = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(5))
    sae = import_sae(save_trainer(tmp_path / "trainer_0", kind, weights), tmp_path / "out")
    check(tmp_path / "out", x, *formula(weights, x))
    assert sae.metadata["hook_name"] == "blocks.2.hook_resid_post"
    assert (sae.metadata["model_name"], sae.metadata["context_size"]) == ("gpt2", 64)


def save_run(directory: Path, hookpoint: str = "layers.3.mlp", **cfg: object) -> tuple[Path, dict[str, Tensor]]:
    place = directory / hookpoint
    place.mkdir(parents=True)
    weights = random_weights(encoder__weight=(D_SAE, D_IN), encoder__bias=(D_SAE,), W_dec=(D_SAE, D_IN), b_dec=(D_IN,))
    save_file(weights, place / "sae.safetensors")
    shape = {"activation": "topk", "num_latents": D_SAE, "k": K, "d_in": D_IN, "transcode": False}
    (place / "cfg.json").write_text(json.dumps(shape | {"skip_connection": False, "expansion_factor": 32} | cfg))
    (directory / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "ctx_len": 2048}))
    return place, weights


def test_sparsify(tmp_path: Path):
    source, w = save_run(tmp_path / "run")
    x = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(5))
    latents = top_k((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"], K)
    sae = import_sae(source, tmp_path / "out")
    check(tmp_path / "out", x, latents, latents @ w["W_dec"] + w["b_dec"])
    assert (sae.metadata["hook_name"], sae.metadata["model_name"]) == ("blocks.3.hook_mlp_out", "EleutherAI/pythia-70m")


@pytest.mark.parametrize(
    ("hookpoint", "site"),
    [
        ("layers.5", "blocks.5.hook_resid_post"),
        ("transformer.h.11", "blocks.11.hook_resid_post"),
        ("gpt_neox.layers.0.attention", "blocks.0.hook_attn_out"),
    ],
)
def test_sparsify_hookpoints(hookpoint: str, site: str, tmp_path: Path):
    source, _ = save_run(tmp_path / "run", hookpoint)
    assert import_sae(source, tmp_path / "out").metadata["hook_name"] == site


def test_what_saelens_saved_is_copied(tmp_path: Path):
    source, _ = save_run(tmp_path / "run")
    import_sae(source, tmp_path / "one")
    again = import_sae(tmp_path / "one", tmp_path / "two", site="blocks.0.attn.hook_z", model="gpt2")
    one, two = load_sae(tmp_path / "one"), load_sae(tmp_path / "two")
    assert all(torch.equal(one.state_dict()[name], two.state_dict()[name]) for name in one.state_dict())
    assert (two.site, again.cfg["reshape_activations"]) == ("blocks.0.attn.hook_z", "hook_z")


class Bomb:
    """Unpickled, it would make a directory."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.path,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path):
    weights = random_weights(**CASES["AutoEncoder"][0])
    source = save_trainer(tmp_path / "trainer_0", "AutoEncoder", weights)
    (source / "ae.safetensors").unlink()
    torch.save({"bomb": Bomb(tmp_path / "harm")}, source / "ae.pt")
    with pytest.raises(DamagedFile, match=r"ae\.pt is a pickle, which is never loaded: .* safetensors"):
        import_sae(source, tmp_path / "out")
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "out").exists()
    save_file(weights, source / "ae.safetensors")
    assert import_sae(source, tmp_path / "out").cfg["architecture"] == "standard"


def test_what_cannot_be_imported_says_why(tmp_path: Path):
    with pytest.raises(DamagedFile, match="should hold sae_weights"):
        import_sae(tmp_path, tmp_path / "out")
    source, _ = save_run(tmp_path / "transcoder", transcode=True)
    with pytest.raises(DamagedFile, match="transcode; only sparsify's top-k autoencoders"):
        import_sae(source, tmp_path / "out")
    source, _ = save_run(tmp_path / "shape", num_latents=7)
    with pytest.raises(DamagedFile, match=r"encoder.weight has the shape \[20, 6\] where \[7, 6\] is due"):
        import_sae(source, tmp_path / "out")
    source, _ = save_run(tmp_path / "nowhere", "whatever")
    with pytest.raises(SettingError, match="give --site"):
        import_sae(source, tmp_path / "out")
    kind = save_trainer(tmp_path / "odd", "CrossCoder", {})
    with pytest.raises(DamagedFile, match="class 'CrossCoder'; those that can be"):
        import_sae(kind, tmp_path / "out")
    cut = save_trainer(tmp_path / "cut", "AutoEncoder", random_weights(**CASES["AutoEncoder"][0]))
    (cut / "ae.safetensors").write_bytes((cut / "ae.safetensors").read_bytes()[:-200])
    with pytest.raises(DamagedFile, match=r"ae\.safetensors is truncated"):
        import_sae(cut, tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(SettingError, match="is there already"):
        import_sae(source, tmp_path / "out", site="blocks.0.hook_resid_post")
