"""State and URL are the same thing."""

import pytest

from app.addresses import Attention, Feature, Features, Lens
from app.state import State, read


@pytest.mark.parametrize(
    "state",
    [
        Attention(),
        Attention(prompt="a & b=c #d\n“é”", layer=2, head=0, score="previous_token"),
        Lens(prompt="+ %20", show="kl"),
        Features(sae="blocks.0.hook_resid_post", rare=-3.25, least=0.5, page=3, search="<b>"),
        Feature(latent=17, text=" the cat"),
    ],
)
def test_a_state_survives_its_url(state: State) -> None:
    path, _, query = state.href().partition("?")
    assert path == state.PATH
    assert read(type(state), query) == state


def test_defaults_are_left_out() -> None:
    assert Features(page=2).href() == "/features?page=2"
    assert Lens().href() == "/lens"


def test_nonsense_counts_as_absent() -> None:
    assert read(Feature, "?latent=many&unknown=1&text=x") == Feature(text="x")
    assert read(Features, "?page=&rare=abc") == Features()
    assert read(Feature, "?latent=" + "9" * 5000) == Feature()
