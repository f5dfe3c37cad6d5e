"""A fixed block of memory in which rows of activations are mixed."""

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.errors import SettingError


class ShufflingBuffer:
    """Takes rows in as they come and gives them out in random order, each exactly once.

    The memory is allocated once; rows are copied in and copied out and never moved in between: what is shuffled is the
    list of their places. To mix well, feed when half of the buffer is free.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        *,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if rows < 1:
            raise SettingError(f"a buffer needs at least one row, not {rows}")
        self._rows = torch.empty(rows, width, dtype=dtype, device=device)
        self._places = torch.arange(rows)  # the first `len(self)` are taken, in the reverse of their serving order
        self._length = 0
        self._mixed = True
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Rows held."""
        return self._length

    @property
    def room(self) -> int:
        """Rows that may be fed."""
        return len(self._rows) - self._length

    def feed(self, rows: Float[Tensor, "row d"]) -> None:
        """Copy rows in. Raises `SettingError` if there is no room for them."""
        if len(rows) > self.room:
            raise SettingError(f"the buffer has room for {self.room} rows, not for {len(rows)}")
        stop = self._length + len(rows)
        places = self._places[self._length : stop].to(self._rows.device)
        self._rows.index_copy_(0, places, rows.to(self._rows))
        self._length = stop
        self._mixed = False

    def draw(self, n: int) -> Float[Tensor, "row d"]:
        """Take out `n` random rows (a copy). Raises `SettingError` if it holds fewer."""
        if n > self._length:
            raise SettingError(f"the buffer holds {self._length} rows, not {n}")
        if not self._mixed:
            held = self._places[: self._length]
            held.copy_(held[torch.randperm(self._length, generator=self._generator)])
            self._mixed = True
        self._length -= n
        places = self._places[self._length : self._length + n].to(self._rows.device)
        return self._rows.index_select(0, places)

    def peek(self, n: int) -> Float[Tensor, "row d"]:
        """Up to `n` of the rows held (a copy), which stay there."""
        return self._rows.index_select(0, self._places[: min(n, self._length)].to(self._rows.device))

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on exactly from here: the rows held and the generator."""
        held = self._places[: self._length].to(self._rows.device)
        return {
            "rows": self._rows.index_select(0, held),
            "mixed": torch.tensor(self._mixed),
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`. Raises `SettingError` if its rows do not fit."""
        rows = state["rows"]
        if len(rows) > len(self._rows) or rows.shape[1:] != self._rows.shape[1:]:
            raise SettingError(f"a state of {list(rows.shape)} does not fit a buffer of {list(self._rows.shape)}")
        self._places = torch.arange(len(self._rows))
        self._length = 0
        self.feed(rows)
        self._mixed = bool(state["mixed"])
        self._generator.set_state(state["generator"].cpu())
