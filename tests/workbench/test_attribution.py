"""Attribution: parts that add up on every architecture, checked against hand-made sums and transformer-lens."""

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution
from transformers import PreTrainedModel

from workbench.attribution import LEVELS, attribute
from workbench.errors import ModelError, SettingError
from workbench.metrics import KL, LOGIT, LOGIT_DIFFERENCE, Metric
from workbench.model import HookedModel, load_model
from workbench.norms import freeze
from workbench.prompts import PromptPairs, prompt_pairs
from workbench.tinytown.tasks import task_prompts


def some_pairs(n: int = 3, length: int = 12, d_vocab: int = 300) -> PromptPairs:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, d_vocab, (n, length), generator=generator)
    answers = torch.randint(0, d_vocab, (2, n), generator=generator)
    return PromptPairs("random", tokens, tokens.flip(1), *answers)


class RandomSAE:
    """Encoder and decoder that have nothing to do with the model, and leave much unexplained."""

    def __init__(self, d: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.W_dec, self.W_enc = torch.randn(20, d, generator=generator), torch.randn(d, 20, generator=generator)
        self.b_dec = torch.randn(d, generator=generator)

    def encode(self, x):
        return (x @ self.W_enc).relu()

    def decode(self, latents):
        return latents @ self.W_dec + self.b_dec


def raw_logits(reference: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Hugging Face's own logits at the last position, without the soft cap."""
    cap, reference.config.final_logit_softcapping = getattr(reference.config, "final_logit_softcapping", None), None
    with torch.no_grad():
        logits = reference(tokens).logits[:, -1]
    if cap:
        reference.config.final_logit_softcapping = cap
    return logits


@pytest.mark.parametrize("metric", [LOGIT, LOGIT_DIFFERENCE])
def test_parts_add_up_to_hugging_faces_logits(model: HookedModel, reference: PreTrainedModel, metric: Metric):
    pairs = some_pairs()
    logits = raw_logits(reference, pairs.clean)
    expected = metric(logits, pairs, logits)
    for by in LEVELS:
        if by == "neuron" and model.info.n_experts:
            with pytest.raises(ModelError, match="mixture of experts"):
                attribute(model, pairs, by=by, metric=metric)
            continue
        for site in ("blocks.1.hook_resid_post", "blocks.1.hook_attn_out") if by == "latent" else (None,):
            sae = RandomSAE(model.info.d_model) if site else None
            result = attribute(model, pairs, by=by, metric=metric, sae=sae, site=site)
            torch.testing.assert_close(result.total, expected, atol=1e-4, rtol=0)
            torch.testing.assert_close(result.before_cap, expected, atol=1e-4, rtol=0)
    logits = reference(pairs.clean).logits[:, -1].detach()
    torch.testing.assert_close(result.logits, metric(logits, pairs, logits), atol=1e-4, rtol=0)


def test_a_soft_cap_is_reported_apart(hooked):
    result = attribute(hooked("gemma2"), some_pairs(), metric=LOGIT)
    torch.testing.assert_close(30 * torch.tanh(result.before_cap / 30), result.logits, atol=1e-5, rtol=1e-5)
    assert (result.logits - result.before_cap).abs().max() > 1e-4
    assert "after its soft cap" in str(result)


def test_finer_parts_add_up_to_coarser_ones(model: HookedModel):
    pairs = some_pairs()
    by = {by: attribute(model, pairs, by=by).parts for by in ("layer", "sublayer", "head", "source")}
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(by["sublayer"]["attention"] + by["sublayer"]["MLP"], by["layer"]["layer"], **close)
    bias = by["head"].get("attention bias", 0)
    torch.testing.assert_close(by["head"]["head"].sum(-1) + bias, by["sublayer"]["attention"], **close)
    torch.testing.assert_close(by["source"]["head from"].sum(-1), by["head"]["head"], **close)


def test_what_a_head_adds_is_what_its_ablation_takes_away_at_a_held_norm(model: HookedModel):
    """Independent of the pull-back: zero one head of the last layer, push the change of its output forward."""
    pairs, layer, head = some_pairs(), model.info.n_layers - 1, 1
    out, last = f"blocks.{layer}.hook_attn_out", f"blocks.{layer}.hook_resid_post"
    sites = [f"blocks.{layer}.attn.hook_z", out, last]
    run = model.run(pairs.clean, capture=sites)
    block = model.bridge.blocks[layer]
    z = run[sites[0]][:, -1, head]
    written = z @ block.attn.W_O[head]
    if hasattr(block, "ln1_post"):  # Gemma 2: RMSNorm with a gain of 1 + weight, of the sum of all heads
        whole = torch.einsum("ehd,hdm->em", run[sites[0]][:, -1], block.attn.W_O)
        rms = (whole.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        written = written / rms * (1 + block.ln1_post.original_component.weight)
    final = run[last][:, -1]
    norm = model.bridge.ln_final.original_component
    gain = 1 + norm.weight if model.info.architecture.startswith("Gemma") else norm.weight
    if hasattr(norm, "bias"):
        written, final = (x - x.mean(-1, keepdim=True) for x in (written, final))
    eps = next(getattr(norm, name) for name in ("variance_epsilon", "eps") if hasattr(norm, name))
    added = written * gain / (final.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    logits = added @ model.W_U
    expected = LOGIT_DIFFERENCE(logits, pairs, logits)
    found = attribute(model, pairs, by="head").parts["head"][:, layer, head]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_source_position_that_is_not_attended_to_adds_nothing(model: HookedModel):
    pairs = some_pairs(1)
    pattern = model.run(pairs.clean, capture=["blocks.*.attn.hook_pattern"]).stack("blocks.*.attn.hook_pattern")
    sources = attribute(model, pairs, by="source").parts["head from"]
    unseen = pattern[:, 0, :, -1] == 0
    assert (sources[0][unseen] == 0).all()
    assert (sources[0][pattern[:, 0, :, -1] > 0.05] != 0).all()


def test_neurons_are_their_activations_along_the_direction_of_their_weights(hooked):
    """GPT-2's last layer, whose MLP reaches the logits through nothing but the final LayerNorm."""
    model, pairs = hooked("gpt2"), some_pairs()
    run = model.run(pairs.clean, capture=["blocks.2.mlp.hook_post", "blocks.2.hook_resid_post"])
    final, norm = run["blocks.2.hook_resid_post"][:, -1], model.bridge.ln_final.original_component
    sigma = (final.var(-1, unbiased=False) + 1e-5).sqrt()
    rows = model.bridge.blocks[2].mlp.W_out
    effects = ((rows - rows.mean(-1, keepdim=True)) * norm.weight) @ model.W_U
    difference = effects[:, pairs.answers] - effects[:, pairs.distractors]
    expected = run["blocks.2.mlp.hook_post"][:, -1] * difference.T / sigma[:, None]
    torch.testing.assert_close(
        attribute(model, pairs, by="neuron").parts["neuron"][:, 2], expected, atol=1e-5, rtol=1e-4
    )


def test_latents_stand_for_what_was_written_before(hooked):
    model, pairs = hooked("llama"), some_pairs()
    plain = attribute(model, pairs).parts
    spliced = attribute(model, pairs, by="latent", sae=RandomSAE(32), site="blocks.1.hook_resid_post").parts
    explained = spliced["latent"].sum(1) + spliced["SAE bias"] + spliced["SAE error"]
    before = plain["embedding"] + (plain["attention"] + plain["MLP"])[:, :2].sum(1)
    torch.testing.assert_close(explained, before, atol=1e-4, rtol=0)
    torch.testing.assert_close(spliced["MLP"][:, 2], plain["MLP"][:, 2])
    assert not spliced["MLP"][:, :2].any()


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama", "qwen3", "mixtral", "bloom", "gemma2"])
def test_sublayers_are_transformer_lens_own(architecture, hooked, checkpoint):
    """The peer folds the final norm's gain into W_U and centres weights, which changes no share of a difference."""
    pairs = some_pairs(1)
    peer = TransformerBridge.boot_transformers(str(checkpoint(architecture)), device="cpu")
    peer.enable_compatibility_mode(disable_warnings=True)
    theirs = direct_logit_attribution(
        peer, pairs.clean, answer_tokens=pairs.answers, incorrect_tokens=pairs.distractors, unit="component"
    )
    table = dict(zip(theirs.labels, theirs.attribution.flatten().tolist(), strict=True))
    ours = attribute(hooked(architecture), pairs).mean
    for layer in range(3):
        assert ours["attention"][layer].item() == pytest.approx(table[f"{layer}_attn_out"], abs=1e-4)
        assert ours["MLP"][layer].item() == pytest.approx(table[f"{layer}_mlp_out"], abs=1e-4)
    assert ours["embedding"].item() == pytest.approx(table["embed"], abs=1e-4)


def test_batches_are_their_prompts_one_by_one(hooked):
    model, pairs = hooked("gpt2"), some_pairs(5)
    whole = attribute(model, pairs, by="head", batch_size=2)
    for row in range(5):
        one = attribute(model, pairs[row : row + 1], by="head")
        torch.testing.assert_close(whole.parts["head"][row], one.parts["head"][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.mean["head"], whole.parts["head"].mean(0))


def test_a_task_with_prompts_of_several_lengths():
    model = load_model("tinytown")
    groups = task_prompts("ioi", 8)
    assert len({group.clean.shape[1] for group in groups}) > 1
    result = attribute(model, groups)
    expected = torch.cat([_difference(model, group) for group in groups])
    torch.testing.assert_close(result.total, expected, atol=1e-4, rtol=0)
    assert f"mean of {len(expected)} prompts of ioi" in str(result)
    with pytest.raises(SettingError, match="several lengths"):
        attribute(model, groups, by="source")


def _difference(model: HookedModel, pairs: PromptPairs) -> torch.Tensor:
    logits = model.run(pairs.clean).logits[:, -1]
    return LOGIT_DIFFERENCE(logits, pairs, logits)


def test_parts_are_ranked_and_named():
    model = load_model("tinytown")
    prompt = "When James and Maya went to the river , Maya showed a coin to"
    pairs = prompt_pairs(model, [prompt], [prompt], ["James"], ["Maya"])
    result = attribute(model, pairs, by="source")
    ranked = result.ranked()
    assert sum(value for _, value in ranked) == pytest.approx(result.before_cap.item(), abs=1e-4)
    assert [abs(value) for _, value in ranked] == sorted((abs(value) for _, value in ranked), reverse=True)
    place = int(result.mean["head from"].argmax())
    layer, head, key = place // (4 * 15), place // 15 % 4, place % 15
    assert f"L{layer}H{head} from {result.strings[key]!r} ({key})" in [name for name, _ in ranked[:4]]
    assert "Logit difference of 'James' and 'Maya', by source" in str(result)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "soul"}, "only by layer"),
        ({"metric": KL}, "kl is not"),
        ({"by": "latent"}, "an SAE and its site"),
        ({"by": "latent", "sae": RandomSAE(32), "site": "blocks.1.attn.hook_z"}, "not in the residual stream"),
        ({"by": "latent", "sae": RandomSAE(31), "site": "blocks.1.hook_resid_pre"}, "31 numbers"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_line(hooked, settings, message):
    with pytest.raises(SettingError, match=message) as raised:
        attribute(hooked("gpt2"), some_pairs(), **settings)
    assert "\n" not in str(raised.value)


def test_a_norm_that_is_none_is_refused():
    with pytest.raises(ModelError, match="neither a LayerNorm nor an RMSNorm"):
        freeze(torch.nn.Tanh(), torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
