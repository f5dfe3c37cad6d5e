"""The one place that touches TransformerBridge's hook points: a forward pass that captures, edits and stops at sites.

Every way in which the hook points of transformer-lens 3.9 differ from what their names promise is mended here:

* Some names never fire, and some fire beside the computation, so that an edit there would change nothing. `survey` runs
  the model once and finds both.
* `hook_resid_mid` is the input of the second norm only: an edit would miss the residual stream itself. `Pass` carries the
  change on to the end of the block.
* A mixture of experts has no single hidden layer, but `mlp.hook_pre` and `mlp.hook_post` exist as names for the input and
  the output of the whole mixture. They are left out.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from workbench import sites
from workbench.edits import Edit, Window


class Stop(Exception):
    """Ends a forward pass from within, once it has computed what was asked for."""


@dataclass
class Pass:
    """One forward pass: the edits to make at each site, the sites to capture, and the site to stop after."""

    window: Window
    edits: Mapping[str, Sequence[Edit]] = field(default_factory=dict)
    capture: frozenset[str] = frozenset()
    stop_after: str | None = None
    grad: bool = False
    captured: dict[str, Tensor] = field(default_factory=dict)
    _carried: dict[str, Tensor] = field(default_factory=dict)

    def sites(self) -> set[str]:
        """Where this pass needs hooks."""
        mids = {site for site in {*self.edits, *(self.capture if self.grad else ())} if _is_mid(site)}
        stop = {self.stop_after} if self.stop_after else set()
        return {*self.edits, *self.capture, *stop, *map(_end_of_block, mids)}

    def visit(self, site: str, value: Tensor) -> Tensor | None:
        """Called with the activation at a site; returns what takes its place, or None to leave it."""
        before = new = value + self._carried.pop(site) if site in self._carried else value
        for edit in self.edits.get(site, ()):
            new = edit.apply(new, site, self.window)
        if site in self.capture:
            new = _tracked(new) if self.grad else new
            self.captured[site] = new
        if _is_mid(site) and new is not before:
            self._carried[_end_of_block(site)] = new - before
        if site == self.stop_after:
            raise Stop
        return None if new is value else new


def _is_mid(site: str) -> bool:
    return site.endswith(".hook_resid_mid")


def _end_of_block(site: str) -> str:
    return site.replace("hook_resid_mid", "hook_resid_post")


def _tracked(value: Tensor) -> Tensor:
    """A node of the autograd graph of its own, so that gradients with respect to it can be asked for."""
    if not value.requires_grad:
        return value.detach().requires_grad_()
    node = value.view_as(value)
    node.retain_grad()
    return node


@contextmanager
def hooked(points: Mapping[str, HookPoint], visits: Mapping[str, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Within the context, each named hook point calls its visitor. The hooks are gone afterwards, whatever happens."""
    added = []
    try:
        for site, visit in visits.items():
            points[site].add_hook(lambda value, hook, visit=visit: visit(value))
            added.append((points[site], points[site].fwd_hooks[-1]))
        with (
            warnings.catch_warnings()
        ):  # it warns that an edited norm is computed step by step, which is what is wanted
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            yield
    finally:
        for point, handle in added:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


@dataclass(frozen=True)
class Survey:
    """Which sites a model has, in the order in which it computes them."""

    points: Mapping[str, HookPoint]
    sites: tuple[str, ...]
    inert: frozenset[str]
    """Sites that can be captured, but which the computation does not read back: an edit would change nothing."""


def survey(bridge: TransformerBridge, forward: Callable[[Tensor], Tensor]) -> Survey:
    """Run two tokens through the model and see which hook points fire once, and which the logits depend on."""
    points = candidates(bridge)
    fired: Counter[str] = Counter()
    nodes: dict[str, Tensor] = {}

    def visit(site: str, value: Tensor) -> Tensor:
        fired[site] += 1
        nodes[site] = _tracked(value)
        return nodes[site]

    tokens = torch.zeros(1, 2, dtype=torch.long, device=next(bridge.original_model.parameters()).device)
    with torch.enable_grad(), hooked(points, {site: lambda value, site=site: visit(site, value) for site in points}):
        logits = forward(tokens)
    names = tuple(site for site, times in fired.items() if times == 1)
    gradients = torch.autograd.grad(logits.sum(), [nodes[site] for site in names], allow_unused=True)
    inert = frozenset(site for site, gradient in zip(names, gradients, strict=True) if gradient is None)
    return Survey(points, names, inert)


def candidates(bridge: TransformerBridge) -> dict[str, HookPoint]:
    """The hook points that carry the name of a site and hold what the name says."""
    known = bridge.hook_dict
    points = {site: known[site] for site in sites.vocabulary(bridge.cfg.n_layers) if site in known}
    for site in [site for site in points if site.endswith((".mlp.hook_pre", ".mlp.hook_post"))]:
        mlp = site.rpartition(".")[0]
        if points[site] in (known.get(f"{mlp}.hook_in"), known.get(f"{mlp}.hook_out")):
            del points[site]
    return points
