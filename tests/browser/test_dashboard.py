"""What a reader does, in a real Chromium."""

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = [
    pytest.mark.browser,
]
PAGES = ("/", "/attention", "/lens", "/features", "/feature", "/text")
PROMPT = "The cat sat on the old stone"


def query(page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def wait_for_query(page, **expected: str) -> None:
    page.wait_for_function(
        "expected => { const q = new URLSearchParams(location.search);"
        " return Object.entries(expected).every(([name, value]) => q.get(name) === value) }",
        arg=expected,
    )


def title(page, name: str) -> str:
    return page.locator(f".panel:has(.js-plotly-plot) h2 >> text={name}").first.inner_text()


def type_prompt(page, text: str, key: str = "prompt") -> None:
    box = page.locator(".prompt-text")
    box.fill(text)
    box.press("Enter")
    wait_for_query(page, **{key: text})


@pytest.mark.parametrize("width", [1440, 800])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_opens_and_fits(open_page: Callable, width: int, theme: str) -> None:
    page = open_page("/", width=width, theme=theme)
    for path in PAGES:
        page.goto(page.url.split("/", 3)[0] + "//" + urlsplit(page.url).netloc + path)
        page.wait_for_selector("main h1")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_prompt_of_ones_own_goes_through_the_lens(open_page: Callable) -> None:
    page = open_page("/lens")
    type_prompt(page, PROMPT)
    page.wait_for_function(
        "prompt => document.querySelector('.js-plotly-plot')?.layout?.meta?.source?.prompt === prompt", arg=PROMPT
    )
    page.get_by_text("Entropy", exact=True).click()
    wait_for_query(page, prompt=PROMPT, show="entropy")
    page.get_by_role("heading", name="Logit lens: entropy").wait_for()


def test_reload_and_back_restore_the_state(open_page: Callable) -> None:
    page = open_page("/lens")
    type_prompt(page, PROMPT)
    page.get_by_text("KL to final", exact=True).click()
    wait_for_query(page, show="kl")
    page.reload()
    page.get_by_role("heading", name="Logit lens: KL to the final row").wait_for()
    assert page.locator(".prompt-text").input_value() == PROMPT
    page.go_back()
    page.get_by_role("heading", name="Logit lens: probability of the top token").wait_for()
    assert query(page) == {"prompt": PROMPT}
    page.go_back()
    page.wait_for_function("() => !location.search")
    page.wait_for_function("prompt => document.querySelector('.prompt-text')?.value !== prompt", arg=PROMPT)
    page.go_forward()
    page.wait_for_function("prompt => document.querySelector('.prompt-text')?.value === prompt", arg=PROMPT)


def test_a_click_enlarges_a_head_and_an_arrow_moves_on(open_page: Callable) -> None:
    page = open_page(f"/attention?prompt={PROMPT.replace(' ', '+')}&layer=0&head=0")
    page.get_by_role("heading", name="Head 0 of layer 0").wait_for()
    tiles = page.locator(".heads .nsewdrag")
    box = tiles.bounding_box()
    layers = page.evaluate("document.querySelector('.heads .js-plotly-plot').layout.meta.grid[0]")
    heads = page.evaluate("document.querySelector('.heads .js-plotly-plot').layout.meta.grid[1]")
    page.mouse.click(box["x"] + box["width"] * 1.2 / heads, box["y"] + box["height"] * 1.6 / layers)
    page.get_by_role("heading", name="Head 1 of layer 1").wait_for()
    assert query(page)["layer"] == query(page)["head"] == "1"
    page.locator(".heads .menu summary").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Head 2 of layer 1").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Head 1 of layer 1").wait_for()


def test_hovering_a_token_tints_what_it_looks_at_and_a_click_keeps_it(open_page: Callable) -> None:
    page = open_page(f"/attention?prompt={PROMPT.replace(' ', '+')}&layer=0&head=0")
    tokens = page.locator(".look.forward .tok")
    tokens.last.wait_for()
    tokens.last.hover()
    tints = tokens.evaluate_all("all => all.map(token => Number(token.style.getPropertyValue('--tint')))")
    assert sum(tint**2 for tint in tints) == pytest.approx(1, abs=0.02)
    tokens.last.click()
    page.mouse.move(5, 5)
    kept = tokens.evaluate_all("all => all.map(token => Number(token.style.getPropertyValue('--tint')))")
    assert kept == tints
    page.keyboard.press("Escape")
    assert not any(tokens.evaluate_all("all => all.map(token => Number(token.style.getPropertyValue('--tint')))"))


def test_the_table_filters_and_a_feature_opens(open_page: Callable) -> None:
    page = open_page("/features")
    rows = page.locator(".features tbody tr")
    rows.first.wait_for()
    word = rows.nth(3).locator(".word.amber").first.inner_text().strip("·↵")
    page.locator("#features-search").fill(word)
    wait_for_query(page, search=word)
    rows.first.click()
    page.wait_for_url("**/feature?**")
    number = query(page)["latent"]
    page.get_by_role("heading", name=re.compile(f"^Feature {number}\\b")).wait_for()
    page.locator(".example .tok.peak").first.wait_for()
    page.go_back()
    rows.first.wait_for()
    assert page.locator("#features-search").input_value() == word


def test_a_feature_answers_about_my_text(open_page: Callable) -> None:
    page = open_page("/features?sort=maximum")
    page.locator(".features .row-link").first.click()
    example = page.locator(".example").first
    example.hover()
    example.get_by_role("button", name="Try").click()
    page.locator(".live .tok").first.wait_for()
    assert "Largest activation" in page.locator(".live").inner_text()
    assert query(page)["text"]
    page.locator(".live .tok.peak").hover()
    page.wait_for_function("() => document.querySelector('.histogram .js-plotly-plot')?.layout?.shapes?.length === 1")
    page.reload()
    page.locator(".live .tok").first.wait_for()


def test_a_token_of_my_text_is_picked(open_page: Callable) -> None:
    page = open_page("/text")
    tokens = page.locator(".pick .tok")
    tokens.nth(2).click()
    page.get_by_role("heading", name="The strongest latents on token 2").wait_for()
    wait_for_query(page, at="2")
    page.locator(".firings .row-link").first.click()
    page.get_by_role("heading", name=re.compile("^Feature")).wait_for()


def test_the_keys(open_page: Callable) -> None:
    page = open_page("/feature?latent=5")
    page.locator("main h1").click()
    page.keyboard.press("n")
    page.get_by_role("heading", name=re.compile("^Feature 6")).wait_for()
    page.keyboard.press("p")
    page.get_by_role("heading", name=re.compile("^Feature 5")).wait_for()
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    page.keyboard.press("g")
    page.keyboard.press("l")
    page.get_by_role("heading", name="Logit lens", exact=True).wait_for()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "lens-text"


def test_the_theme_is_toggled_and_kept(open_page: Callable) -> None:
    page = open_page("/lens")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.get_by_role("button", name="Theme").click()
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    dark = "rgb(23, 27, 34)"
    ground = (
        "dark => { const svg = document.querySelector('.js-plotly-plot .main-svg');"
        " return svg && getComputedStyle(svg).backgroundColor === dark }"
    )
    page.wait_for_function(ground, arg=dark)
    page.reload()
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.wait_for_function(ground, arg=dark)


@pytest.mark.parametrize("kind", ["PNG", "SVG", "CSV", "JSON"])
def test_every_figure_leaves_as_a_file(open_page: Callable, kind: str) -> None:
    page = open_page("/lens")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.get_by_text("Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name=kind, exact=True).click()
    assert download.value.suggested_filename == f"logit-lens-probability-of-the-top-token.{kind.lower()}"
    with open(download.value.path(), "rb") as file:
        start = file.read(40)
    assert {"PNG": b"\x89PNG", "SVG": b"<svg", "CSV": b"layer,position,token", "JSON": b"{"}[kind] in start


def test_wrong_input_says_one_line(open_page: Callable) -> None:
    page = open_page("/lens")
    for text, said in (("", "the prompt is empty"), ("cat " * 400, "tokens")):
        page.locator(".prompt-text").fill(text)
        page.locator(".prompt-text").press("Enter")
        page.locator(".notice.error", has_text=said).wait_for()
        assert page.locator("#lens-results").is_hidden()
    page.locator(".prompt-text").fill("the cat")
    page.locator(".prompt-text").press("Enter")
    page.locator(".js-plotly-plot .xtick").first.wait_for()
    assert page.locator(".notice.error").count() == 0


def test_a_prompt_cannot_become_markup(open_page: Callable) -> None:
    page = open_page("/attention?prompt=%3Cimg+src%3Dx+onerror%3Ddocument.title%3D1%3E+%3Cb%3Ecat")
    page.locator(".look .tok").first.wait_for()
    page.wait_for_load_state("networkidle")
    assert page.locator("main img, main b").count() == 0
