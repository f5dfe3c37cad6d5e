"""Two sides that do the same work, timed in turn."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """What came of timing our side and a peer's in turn."""

    name: str
    ours: float
    """Median."""
    peer: float
    """Median."""
    ratio: float
    """Median of peer / ours, round by round: above 1 where ours is less."""
    equal: bool
    """Whether both computed the same."""

    def __str__(self) -> str:
        return f"{self.name}: ours {self.ours:.4g}, peer {self.peer:.4g}, ratio {self.ratio:.2f}, equal: {self.equal}"


def figures(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """The medians of both sides, and of their ratio."""
    ratio = statistics.median(b / a for a, b in zip(ours, peer, strict=True))
    return {"ours": statistics.median(ours), "peer": statistics.median(peer), "ratio": ratio}


def in_turn(sides: dict[str, Callable[[], Any]], turn: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Result and processor seconds of each side; who goes first changes with every turn."""
    results, seconds = {}, {}
    for side in sorted(sides, reverse=turn % 2 == 0):
        results[side], seconds[side] = timed(sides[side])
    return results, seconds


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def report(comparison: Comparison, as_json: bool) -> None:
    """Print it; raises `AssertionError` if the sides computed different things."""
    print(json.dumps(asdict(comparison)) if as_json else comparison, flush=True)
    assert comparison.equal, f"{comparison.name}: the sides computed different things"
