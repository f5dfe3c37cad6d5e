"""The buffer serves each row once, well mixed, and goes on exactly from a saved state."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from workbench.buffer import ShufflingBuffer
from workbench.errors import SettingError
from workbench.files import read_tensors, write_tensors


def rows(start: int, n: int) -> Tensor:
    """Rows that hold their own number, twice."""
    return torch.arange(start, start + n, dtype=torch.float32)[:, None].expand(n, 2)


def serve(buffer: ShufflingBuffer, n_fed: int, chunk: int, step: int) -> Tensor:
    """Feed numbered rows as they fit once half is served; return the numbers in the order served."""
    fed, served = 0, []
    while fed < n_fed or len(buffer):
        if len(buffer) <= buffer.room:
            while fed < n_fed and buffer.room >= chunk:
                buffer.feed(rows(fed, chunk))
                fed += chunk
        served.append(buffer.draw(min(step, len(buffer)))[:, 0])
    return torch.cat(served).long()


def test_every_row_is_served_once() -> None:
    served = serve(ShufflingBuffer(1000, 2, seed=0), n_fed=12_000, chunk=60, step=70)
    assert torch.equal(served.sort().values, torch.arange(12_000))


def test_rows_that_come_together_do_not_stay_together() -> None:
    """Of rows fed 100 at a time, two served one after the other come from one hundred about as often as by chance."""
    served = serve(ShufflingBuffer(4000, 2, seed=0), n_fed=40_000, chunk=100, step=64)
    source = served // 100
    together = (source[1:] == source[:-1]).float().mean().item()
    assert together < 2 / 20  # after a refill, at least half of 4,000 rows, twenty hundreds, are new
    rank = torch.empty(40_000).index_put((served,), torch.arange(40_000.0))
    spread = rank.view(400, 100).std(dim=1)
    assert (spread > 500).float().mean() > 0.95  # in order, it would be 29


def test_a_full_buffer_is_served_in_uniform_order() -> None:
    """Over many seeds, the row that comes first is as often from any quarter of the buffer."""
    firsts = []
    for seed in range(2000):
        buffer = ShufflingBuffer(16, 2, seed=seed)
        buffer.feed(rows(0, 16))
        firsts.append(int(buffer.draw(1)[0, 0]))
    counts = torch.bincount(torch.tensor(firsts), minlength=16)
    assert ((counts - 125) ** 2 / 125).sum() < 37.7  # chi-squared, 15 degrees of freedom, p = 0.001


def test_the_seed_decides_the_order() -> None:
    one, same, other = (serve(ShufflingBuffer(100, 2, seed=seed), 500, 25, 10) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_is_drawn_is_a_copy() -> None:
    buffer = ShufflingBuffer(4, 2, seed=0)
    buffer.feed(rows(0, 4))
    drawn = buffer.draw(2)
    kept = drawn.clone()
    buffer.feed(rows(10, 2))
    assert torch.equal(drawn, kept)


def test_a_peek_changes_nothing() -> None:
    one, other = (ShufflingBuffer(20, 2, seed=0) for _ in range(2))
    for buffer in (one, other):
        buffer.feed(rows(0, 12))
    peeked = one.peek(5)
    assert peeked.shape == (5, 2)
    assert len(one.peek(100)) == len(one) == 12
    assert torch.equal(one.draw(12), other.draw(12))


@pytest.mark.parametrize("drawn", [0, 3, 10])
@pytest.mark.parametrize("fed_again", [False, True])
def test_a_saved_state_goes_on_exactly(drawn: int, fed_again: bool, tmp_path: Path) -> None:
    buffer = ShufflingBuffer(20, 2, seed=5)
    buffer.feed(rows(0, 18))
    buffer.draw(drawn)
    if fed_again:
        buffer.feed(rows(50, 2))
    write_tensors(tmp_path / "state.safetensors", buffer.state())
    other = ShufflingBuffer(20, 2, seed=99)
    other.restore(read_tensors(tmp_path / "state.safetensors"))
    for start in (100, 200, 300):
        n = buffer.room
        buffer.feed(rows(start, n))
        other.feed(rows(start, n))
        assert torch.equal(buffer.draw(7), other.draw(7))
    assert torch.equal(buffer.draw(len(buffer)), other.draw(len(other)))


def test_rows_are_kept_in_the_precision_asked_for() -> None:
    buffer = ShufflingBuffer(4, 2, seed=0, dtype=torch.bfloat16)
    buffer.feed(torch.full((1, 2), 1 + 2**-10))
    assert torch.equal(buffer.draw(1), torch.ones(1, 2, dtype=torch.bfloat16))


def test_too_much_is_refused_and_changes_nothing() -> None:
    buffer = ShufflingBuffer(4, 2, seed=0)
    buffer.feed(rows(0, 3))
    with pytest.raises(SettingError, match="room for 1 rows, not for 2"):
        buffer.feed(rows(0, 2))
    with pytest.raises(SettingError, match="holds 3 rows, not 4"):
        buffer.draw(4)
    with pytest.raises(SettingError, match="does not fit"):
        ShufflingBuffer(2, 2, seed=0).restore(buffer.state())
    with pytest.raises(SettingError, match="at least one row"):
        ShufflingBuffer(0, 2, seed=0)
    assert sorted(buffer.draw(3)[:, 0].tolist()) == [0, 1, 2]
