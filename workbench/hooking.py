"""The one place that touches TransformerBridge's hook points: a forward pass that captures, edits and stops at sites.

Every way in which the hook points of transformer-lens 3.9 differ from what their names promise is mended here:

* Some never fire, and some fire beside the computation, so that an edit there would change nothing: `survey` runs the
  model once and finds both. Scores that fire beside the computation are patterns under a wrong name, and are left out.
* `hook_resid_mid` is the input of the second norm only, so that an edit would miss the residual stream itself: `Pass`
  carries the change on to the end of the block.
* In a mixture of experts, `mlp.hook_pre` and `mlp.hook_post` name the input and output of the whole mixture, not a
  hidden layer: they are left out.
* In the library's own small models, attention is hidden from its hooks: `OpenAttention` shows it.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native.model import NativeAttention

from workbench import sites
from workbench.edits import Edit, Window
from workbench.native import OpenAttention

Visit = Callable[[Tensor], Tensor | None]
"""Called with the activation at a site; returns what takes its place, or None to leave it."""
Attach = Callable[[Visit], Callable[[], None]]
"""Lets a visitor in at a site; returns what sends it away again."""


class Stop(Exception):
    """Ends a forward pass from within, once it has computed what was asked for."""


@dataclass
class Pass:
    """One forward pass: the edits to make at each site, the sites to capture, and the site to stop after."""

    window: Window
    edits: Mapping[str, Sequence[Edit]] = field(default_factory=dict)
    capture: Sequence[str] = ()
    stop_after: str | None = None
    grad: bool = False
    captured: dict[str, Tensor] = field(default_factory=dict)
    _carried: dict[str, Tensor] = field(default_factory=dict)

    def visits(self) -> dict[str, Visit]:
        """A visitor for each site that this pass has business at."""
        mids = [site for site in (*self.edits, *self.capture) if _is_mid(site)]
        stop = [self.stop_after] if self.stop_after else []
        return {
            site: partial(self.visit, site) for site in (*self.edits, *self.capture, *stop, *map(_end_of_block, mids))
        }

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
def hooked(points: Mapping[str, Attach], visits: Mapping[str, Visit]) -> Iterator[None]:
    """Within the context, each visitor is called at its site. Nothing stays behind, whatever happens."""
    with ExitStack() as stack, warnings.catch_warnings():
        # It warns that an edited norm is computed step by step, which is what is wanted.
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
        for site, visit in visits.items():
            stack.callback(points[site](visit))
        yield


def attach(point: HookPoint, visit: Visit) -> Callable[[], None]:
    """Let a visitor in at a hook point; returns what sends it away again."""
    point.add_hook(lambda value, hook: visit(value))
    handle = point.fwd_hooks[-1]

    def detach() -> None:
        handle.hook.remove()
        point.fwd_hooks.remove(handle)

    return detach


@dataclass(frozen=True)
class Survey:
    """Which sites a model has, in the order in which it computes them."""

    points: Mapping[str, Attach]
    sites: tuple[str, ...]
    inert: frozenset[str]
    """Sites that can be captured, but that nothing is computed from: an edit there would change nothing."""


def survey(bridge: TransformerBridge, forward: Callable[[Tensor], Tensor]) -> Survey:
    """Run two tokens through the model and see which sites it visits once, and which of them the logits depend on."""
    points = _points(bridge)
    times: Counter[str] = Counter()
    nodes: dict[str, Tensor] = {}

    def visit(site: str, value: Tensor) -> Tensor:
        times[site] += 1
        nodes[site] = _tracked(value)
        return nodes[site]

    visits = {site: partial(visit, site) for site in points}
    with torch.inference_mode(False), torch.enable_grad(), hooked(points, visits):
        tokens = torch.zeros(1, 2, dtype=torch.long, device=next(bridge.original_model.parameters()).device)
        total = forward(tokens).sum()
        names = [site for site in times if times[site] == 1]
        gradients = torch.autograd.grad(total, [nodes[site] for site in names], allow_unused=True)
    inert = {site for site, gradient in zip(names, gradients, strict=True) if gradient is None}
    false = {site for site in inert if site.endswith("hook_attn_scores")}
    return Survey(points, tuple(site for site in names if site not in false), frozenset(inert - false))


def _points(bridge: TransformerBridge) -> dict[str, Attach]:
    """How to visit each site that the bridge has a hook point for."""
    known = bridge.hook_dict
    found = {site: known[site] for site in sites.vocabulary(bridge.cfg.n_layers) if site in known}
    points = {site: partial(attach, point) for site, point in found.items() if not _is_whole_mlp(site, known)}
    for layer, block in enumerate(bridge.blocks):
        attention = getattr(getattr(block, "attn", None), "original_component", None)
        if isinstance(attention, NativeAttention):
            inside = OpenAttention(attention)
            points[f"blocks.{layer}.attn.hook_attn_scores"] = partial(inside.attach, "scores")
            points[f"blocks.{layer}.attn.hook_pattern"] = partial(inside.attach, "pattern")
    return points


def _is_whole_mlp(site: str, known: Mapping[str, HookPoint]) -> bool:
    """Whether a name of the MLP's hidden layer stands for the input or the output of the whole MLP."""
    mlp, _, name = site.rpartition(".")
    whole = (known.get(f"{mlp}.hook_in"), known.get(f"{mlp}.hook_out"))
    return name in ("hook_pre", "hook_post") and known[site] in whole
