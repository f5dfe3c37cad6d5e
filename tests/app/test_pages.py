"""Every page's layout, and the callbacks as plain functions."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from dash.development.base_component import Component
from flask.testing import FlaskClient
from plotly.utils import PlotlyJSONEncoder

from app import router
from app.addresses import Attention, Feature, Features, Text
from app.components import missing_index, on_my_text
from app.pages import attention, features, lens
from app.pages import text as text_page
from app.session import Session
from workbench.figures.table import array

SAE, BARE = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
PROMPT = "The cat sat on the mat."


def components(tree: Any) -> Iterator[Component]:
    """Every component below and including `tree`."""
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from components(item)
    elif isinstance(tree, Component):
        yield tree
        yield from components(getattr(tree, "children", None))


def text(tree: Any) -> str:
    """All text in `tree`."""
    if isinstance(tree, list | tuple):
        return "".join(text(item) for item in tree)
    if isinstance(tree, Component):
        return text(getattr(tree, "children", None))
    return "" if tree is None else str(tree)


def of_class(tree: Any, name: str) -> list[Component]:
    return [item for item in components(tree) if name in (getattr(item, "className", None) or "").split()]


def page(session: Session, address: str) -> Any:
    """The laid-out page, checked to be JSON that a browser can be sent."""
    content, navigation, title = router.lay_out(session, address)
    json.dumps([content, navigation], cls=PlotlyJSONEncoder)
    assert title.endswith("Interp Workbench")
    return content


@pytest.mark.parametrize("path", router.PAGES)
def test_every_page_lays_out_and_is_served(session: Session, client: FlaskClient, path: str) -> None:
    assert text([item for item in components(page(session, path)) if item._type == "H1"])
    assert client.get(path).status_code == 200


def test_the_layout_and_the_callbacks_are_served(client: FlaskClient) -> None:
    assert "jobs-poll" in client.get("/_dash-layout").text
    outputs = [callback["output"] for callback in client.get("/_dash-dependencies").json]
    assert len(outputs) == len(set(outputs))


def test_an_unknown_path_says_so(session: Session) -> None:
    assert "no such page" in text(page(session, "/nowhere"))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (Feature(latent=96).href(), "there is no latent 96; the SAE has 0 to 95"),
        (Feature(latent=-1).href(), "there is no latent -1"),
        (Feature(sae="nonesuch").href(), f"no SAE 'nonesuch' is open; there is {SAE}, {BARE}"),
        (Features(sort="colour").href(), "cannot be sorted by 'colour'"),
        (Features(concept="noun").href(), "no concept 'noun'"),
    ],
)
def test_a_wrong_address_gives_one_line(session: Session, address: str, said: str) -> None:
    (line,) = of_class(page(session, address), "error")
    assert said in text(line)
    assert "\n" not in text(line)


def test_the_start_page_says_what_is_open(session: Session) -> None:
    said = text(page(session, "/"))
    for fact in ("LlamaForCausalLM", "4 (2 key–value)", "rotary", SAE, BARE, "topk", "no index yet"):
        assert fact in said


def test_the_page_says_that_the_model_is_loading() -> None:
    waiting = Session("tinytown")
    assert "Loading tinytown" in text(page(waiting, "/attention"))


def test_a_model_that_cannot_be_loaded_is_named() -> None:
    failed = Session("/nowhere/at/all")
    failed.start()
    while failed.loading.active:
        failed.worker.ask(lambda: None)
    (line,) = of_class(page(failed, "/"), "error")
    assert "/nowhere/at/all" in text(line)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("", "the prompt is empty"), ("  \n", "the prompt is empty"), ("cat " * 100, "64")],
)
def test_a_wrong_prompt_gives_one_line_on_every_page(session: Session, prompt: str, said: str) -> None:
    _, grid_notice, grid_hidden = attention.all_heads(session, prompt)
    _, lens_notice, lens_hidden, _ = lens.render(session, prompt, "probability", "token")
    for notice, hidden in ((grid_notice, grid_hidden), (lens_notice, lens_hidden)):
        assert hidden
        assert said in text(notice)
    attention.one_head(session, prompt, [0, 0], "induction")


def test_the_grid_and_the_head_show_the_models_attention(session: Session) -> None:
    grid, notice, hidden = attention.all_heads(session, PROMPT)
    assert not notice
    assert not hidden
    figure, _, strip, href = attention.one_head(session, PROMPT, [1, 2], "induction")
    shown = array(figure.data[0].z)
    expected = session.model.run(PROMPT, capture=["blocks.1.attn.hook_pattern"])["blocks.1.attn.hook_pattern"][0, 2]
    n = len(expected)
    for query in range(n):
        assert shown[query, : query + 1] == pytest.approx(expected[query, : query + 1].numpy(), abs=1e-6)
    tile = array(grid.data[0].z)[n + 1 : 2 * n + 1, 2 * (n + 1) : 3 * n + 2]
    assert tile[n - 1, :n] == pytest.approx(expected[-1].numpy(), abs=1e-6)
    assert len(of_class(strip, "tok")) == 2 * n
    assert href == Attention(prompt=PROMPT, layer=1, head=2).href()


def test_a_figure_says_where_its_numbers_come_from(session: Session) -> None:
    figure, *_ = lens.render(session, PROMPT, "probability", "token")
    assert figure.layout.meta["source"] == {"model": session.model.info.name, "prompt": PROMPT}


def test_a_click_in_the_grid_falls_on_its_head(session: Session) -> None:
    grid, *_ = attention.all_heads(session, PROMPT)
    x, y, z = (array(grid.data[0][axis]) for axis in "xyz")
    n = len(session.model.to_tokens(PROMPT)[0])
    for column, row in ((0, 0), (n - 1, n - 1), (n + 1, 0), (3 * (n + 1), 2 * (n + 1) + n - 1)):
        assert int(x[column]) == column // (n + 1)
        assert int(y[row]) == row // (n + 1)
    assert z.shape == (3 * (n + 1), 4 * (n + 1))


def test_without_a_choice_the_best_head_is_enlarged(session: Session) -> None:
    _, chosen, _ = attention.all_scores(session, "previous_token", None)
    scores = session.head_scores().previous_token
    assert scores[tuple(chosen)] == scores.max()
    assert attention.all_scores(session, "previous_token", [2, 1])[1] == [2, 1]


def test_the_rank_of_a_head_counts_the_better_ones(session: Session) -> None:
    _, facts, _, _ = attention.one_head(session, PROMPT, [1, 3], "induction")
    scores = session.head_scores().induction
    rank = int((scores > scores[1, 3]).sum()) + 1
    assert f"{rank} of 12" in text(facts)


def test_filters_reach_the_index(session: Session) -> None:
    index = session.dictionary(SAE).index
    state = features.filtered(Features(page=4), "cat", None, [-2.0, -0.5], 0.2)
    assert state.page == 1
    page = features.query(session.dictionary(SAE), state)
    assert 0 < page.total < 96
    for row in page.rows:
        record = index.latent(row["latent"])
        assert 0.01 <= record.density <= 10**-0.5
        assert record.maximum >= 0.2
    assert features.filtered(state, "cat", None, [-2.0, -0.5], 0.2) == state


def test_the_table_pages_through_every_latent_once(session: Session) -> None:
    dictionary = session.dictionary(SAE)
    rows = [row["latent"] for page in (1, 2) for row in features.query(dictionary, Features(page=page)).rows]
    assert sorted(rows) == list(range(96))


def test_my_text_is_tinted_by_the_saes_own_activations(session: Session) -> None:
    dictionary = session.dictionary(SAE)
    residual = session.model.run(PROMPT, capture=[SAE])[SAE][0]
    expected = dictionary.sae.encode(residual)
    latent = int(expected.max(dim=0).values.argmax())
    answer = on_my_text.answer(session, SAE, latent, PROMPT)
    shown = [float(token.to_plotly_json()["props"]["data-value"]) for token in of_class(answer, "tok")]
    assert shown == pytest.approx(expected[:, latent].tolist(), rel=1e-3)
    assert f"{expected[:, latent].max():.2f}" in text(answer)


def test_the_strongest_latents_on_a_text_are_the_saes(session: Session) -> None:
    shown, notice, href = text_page.render(session, SAE, PROMPT, 2)
    residual = session.model.run(PROMPT, capture=[SAE])[SAE][0]
    expected = session.dictionary(SAE).sae.encode(residual)[2]
    links = [text(link) for link in of_class(shown, "row-link")]
    assert links == [str(latent) for latent in expected.argsort(descending=True).tolist()[: int((expected > 0).sum())]]
    assert not notice
    assert href == Text(sae=SAE, prompt=PROMPT, at=2).href()


def test_no_text_no_answer(session: Session) -> None:
    assert on_my_text.answer(session, SAE, 0, "") is None
    assert "64" in text(on_my_text.answer(session, SAE, 0, "cat " * 100))


def test_text_cannot_become_markup(session: Session) -> None:
    prompt = "<img src=x onerror=alert(1)> <b>cat</b>"
    figure, *_ = lens.render(session, prompt, "entropy", "token")
    sent = json.dumps([figure.layout.to_plotly_json(), figure.data[0].to_plotly_json()], cls=PlotlyJSONEncoder)
    assert "<img" not in sent.replace('"columns"', "").split('"meta"')[0]
    for label in figure.layout.xaxis.ticktext:
        assert "<" not in label


def test_an_sae_without_an_index_says_how_to_build_it(session: Session) -> None:
    content = page(session, Features(sae=BARE).href())
    assert f"workbench sae index {session.dictionary(BARE).directory}" in text(content)
    assert missing_index.progress(session, BARE, wanted=False) is None


def test_the_random_feature_is_alive(session: Session) -> None:
    content = page(session, Feature(sae=SAE, latent=3).href())
    (link,) = [item for item in components(content) if getattr(item, "data-step", None) == "random"]
    state = router.read(Feature, link.href.partition("?")[2])
    assert session.dictionary(SAE).rows[state.latent]["n_active"] > 0
