"""An export is what Neuronpedia's import reads, field by field, and says what the index says."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saes.architectures import ARCHITECTURES
from saes.formats.cli import ExportOptions, run_export
from saes.formats.neuronpedia import Names, export_neuronpedia, layer_of
from saes.index.build import build_index
from saes.index.feature_index import FeatureIndex
from saes.sae import SAE, SAEConfig
from saes.storage import save_sae
from tests.checkpoints import TEXT
from workbench.corpus import open_corpus
from workbench.errors import SettingError
from workbench.model import HookedModel

FEATURE = """modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel
vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices
neuron_alignment_values neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1
correlated_features_indices correlated_features_pearson correlated_features_l1 neg_str neg_values pos_str pos_values
frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights
logits_hist_data_bar_values decoder_weights_dist sourceSetName"""
ACTIVATION = """id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource
dataIndex dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains
qualifyingTokenIndex zIndices zValues"""
HEADS = {
    "model": """id instruct creatorId displayNameShort displayName tlensId dimension visibility defaultSourceSetName
        defaultSourceId inferenceEnabled layers neuronsPerLayer createdAt owner updatedAt website""",
    "source": """id modelId setName creatorId hasDashboards inferenceEnabled inferenceHosts saelensConfig
        saelensRelease saelensSaeId hfRepoId hfFolderId visibility defaultOfModelId hasUmap hasUmapLogSparsity
        hasUmapClusters num_prompts num_tokens_in_prompt dataset notes createdAt""",
    "sourceset": """modelId name creatorId hasDashboards visibility description type creatorName urls creatorEmail
        releaseName defaultOfModelId defaultRange defaultShowBreaks showDfa showCorrelated showHeadAttribution
        showUmap createdAt""",
    "release": """name description creatorName creatorId visibility isNewUi featured descriptionShort urls
        creatorEmail creatorNameShort defaultSourceSetName defaultSourceId defaultUmapSourceIds createdAt""",
}
"""As the site's own exporter lists them."""


@pytest.fixture(scope="module")
def model(hooked: Callable[[str], HookedModel]) -> HookedModel:
    return hooked("gpt2")


@pytest.fixture(scope="module")
def sae() -> SAE:
    config = SAEConfig(32, 150, k=4, metadata={"hook_name": "blocks.1.hook_resid_post"})
    return ARCHITECTURES["topk"](config).initialise(torch.zeros(32), seed=0).requires_grad_(False)


@pytest.fixture(scope="module")
def index(sae: SAE, model: HookedModel, tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    out = tmp_path_factory.mktemp("sae")
    (out / "text.txt").write_text("\n\n".join(" ".join(TEXT.split()[i::3]) for i in range(3)) + f"\n\n{TEXT}")
    save_sae(sae, out)
    return build_index(sae, model, open_corpus(out / "text.txt", model.tokenizer, context=16), n_tokens=10**6, out=out)


def lines(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.decode().split("\n")[:-1]]


@pytest.fixture(scope="module")
def exported(sae, index, model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("neuronpedia")
    export_neuronpedia(sae, index, model, out, Names.of(index.summary, "res-wb", "wb", "me"))
    heads = {name: lines(out / f"{name}.jsonl") for name in HEADS}
    assert len(list(out.rglob("*.gz"))) == 4
    for kind in ("features", "activations"):
        heads[kind] = [row for batch in (0, 1) for row in lines(out / kind / f"batch-{batch}.jsonl.gz")]
    return heads


def test_every_field_is_there_and_no_other(exported):
    for name, fields in (HEADS | {"features": FEATURE, "activations": ACTIVATION}).items():
        assert exported[name]
        for row in exported[name]:
            assert sorted(row) == sorted(fields.split()), name


def test_rows_refer_to_each_other(exported):
    (model,), (source,), (group,), (release,) = (exported[name] for name in HEADS)
    assert source["id"] == "1-res-wb"
    assert source["modelId"] == group["modelId"] == model["id"]
    assert source["setName"] == group["name"] == "res-wb"
    assert group["releaseName"] == release["name"] == "wb"
    for row in exported["features"] + exported["activations"]:
        assert (row["modelId"], row["layer"]) == (model["id"], source["id"])
    assert [row["index"] for row in exported["features"]] == [str(latent) for latent in range(150)]
    assert len({row["id"] for row in exported["activations"]}) == len(exported["activations"])


def test_features_say_what_the_index_says(exported, index: FeatureIndex, sae: SAE, model: HookedModel):
    for latent in (0, 77, 149):
        row, record = exported["features"][latent], index.latent(latent)
        assert row["frac_nonzero"] == record.density
        assert row["maxActApprox"] == pytest.approx(record.maximum, abs=1e-5)
        assert row["vector"] == pytest.approx(sae.W_dec[latent].tolist(), abs=1e-5)
        assert row["pos_str"] == [logit.string for logit in record.top_logits]
        assert row["neg_values"] == pytest.approx([logit.effect for logit in record.bottom_logits], abs=1e-5)
        assert row["topkCosSimIndices"] == [other.latent for other in record.neighbours]
        assert sum(row["freq_hist_data_bar_heights"]) == record.n_active
        largest = sae.W_dec[latent].topk(3)
        assert row["neuron_alignment_indices"] == largest.indices.tolist()
        l1 = largest.values / sae.W_dec[latent].abs().sum()
        assert row["neuron_alignment_l1"] == pytest.approx(l1.tolist(), abs=1e-5)
        heights, centres = row["logits_hist_data_bar_heights"], row["logits_hist_data_bar_values"]
        assert (len(heights), len(centres), sum(heights)) == (50, 50, model.info.d_vocab)
        half = (centres[1] - centres[0]) / 2
        assert centres[-1] + half == pytest.approx(record.top_logits[0].effect, abs=1e-3)
        assert centres[0] - half == pytest.approx(record.bottom_logits[0].effect, abs=1e-3)


def test_activations_are_the_examples(exported, index: FeatureIndex):
    latent = max(range(150), key=lambda latent: len(index.latent(latent).examples))
    record = index.latent(latent)
    assert {example.band is None for example in record.examples} == {True, False} or len(record.examples) <= 20
    mine = [row for row in exported["activations"] if row["index"] == str(latent)]
    assert len(mine) == len(record.examples)
    for row, example in zip(mine, record.examples, strict=True):
        assert row["tokens"] == example.strings
        assert row["values"] == pytest.approx(example.activations, abs=1e-5)
        assert row["maxValueTokenIndex"] == row["qualifyingTokenIndex"] == example.peak
        assert row["values"][example.peak] == row["maxValue"] == max(row["values"])
        if example.band is None:
            assert (row["binMin"], row["binContains"]) == (-1, -1)
        else:
            band = record.bands[example.band]
            assert row["binMin"] <= row["maxValue"] <= row["binMax"]
            assert row["binContains"] == band.n_tokens / index.summary.n_tokens


def test_the_command_copies_for_saelens_and_refuses_what_is_there(index: FeatureIndex, sae: SAE, tmp_path: Path):
    from sae_lens import SAE as PeerSAE

    out = tmp_path / "copy"
    assert "load_from_disk" in run_export(ExportOptions(index.directory, out, to="saelens"))
    assert torch.equal(PeerSAE.load_from_disk(out).W_dec, sae.W_dec)
    with pytest.raises(SettingError, match="is there already"):
        run_export(ExportOptions(index.directory, out, to="saelens"))


@pytest.mark.parametrize("architecture", ["topk_transcoder", "crosscoder"])
def test_what_saelens_does_not_know_is_not_copied(architecture: str, tmp_path: Path):
    where = {"widths": (8, 8)} if architecture == "crosscoder" else {"d_out": 8, "k": 2}
    save_sae(ARCHITECTURES[architecture](SAEConfig(16, 32, **where)), tmp_path / "sae")
    with pytest.raises(SettingError, match=f"SAELens has no {architecture}"):
        run_export(ExportOptions(tmp_path / "sae", tmp_path / "out", to="saelens"))
    assert not (tmp_path / "out").exists()


def test_names_and_sites_that_cannot_be_filed(index: FeatureIndex):
    with pytest.raises(SettingError, match="'Res WB' must be lower-case"):
        Names.of(index.summary, "Res WB", "wb", "me")
    with pytest.raises(SettingError, match="hook_embed is in none"):
        layer_of("hook_embed")
