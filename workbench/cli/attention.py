"""`workbench attention`: where heads look, what they move, and what their weights say. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tyro.conf import Positional

from workbench.cli.command import Command
from workbench.errors import SettingError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.attention import AttentionPatterns
    from workbench.attention_flow import Rollout
    from workbench.composition import Composition
    from workbench.corpus import PackedCorpus
    from workbench.head_circuits import HeadCircuit, OVSpectrum
    from workbench.head_tables import HeadTable
    from workbench.model import HookedModel
    from workbench.routing import Routing

command = Command(
    summary="Where heads look and what they move; their scores, circuits and composition",
    options="workbench.cli.attention:AttentionOptions",
    run="workbench.cli.attention:run",
    figure="workbench.cli.attention:draw",
)


@dataclass(frozen=True)
class AttentionOptions:
    """Attention on a prompt, or, with one of the options below, what heads are over a corpus or by their weights."""

    prompt: Positional[str] = ""
    """The text to look at."""
    score: str | None = None
    """Rank all heads: previous_token, duplicate_token, induction, entropy, distance, positional, copying, eigenvalue,
    suppression."""
    head: str | None = None
    """One head, as L1H2 or 1.2: the strongest pairs of its QK and OV circuits, and the spectrum of OV."""
    composition: bool = False
    """How far earlier heads write where later ones read."""
    routers: bool = False
    """Where the routers of a mixture of experts send tokens."""
    offset: int = 1
    """How far the key is behind the query in a QK circuit; matters under rotary positions."""
    top: int = 8
    """How many pairs to show."""
    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    corpus: str = "tinytown"
    """The text that entropy, distance, positional share and routers are measured on."""
    context: int = 128
    """Tokens per sequence of the corpus."""

    def __post_init__(self) -> None:
        asked = [bool(self.prompt), self.score is not None, self.head is not None, self.composition, self.routers]
        if sum(asked) != 1:
            raise SettingError("give one of: a prompt, --score, --head, --composition, --routers")
        if self.head is not None and not re.fullmatch(r"L?\d+[H.]\d+", self.head):
            raise SettingError(f"--head is {self.head!r}; write L1H2 or 1.2 for head 2 of layer 1")


@dataclass(frozen=True)
class OnPrompt:
    """What attention does with a prompt."""

    patterns: AttentionPatterns
    rollout: Rollout
    """Of what is carried, not of where is looked: weighted by the values."""

    def __str__(self) -> str:
        return f"{self.patterns}\n{self.rollout}"


@dataclass(frozen=True)
class OneHead:
    """What the weights of one head say."""

    qk: HeadCircuit
    ov: HeadCircuit
    spectrum: OVSpectrum

    def __str__(self) -> str:
        return f"{self.qk}\n{self.ov}\n{self.spectrum}"


def run(options: AttentionOptions) -> OnPrompt | HeadTable | OneHead | Composition | Routing:
    from workbench.model import load_model

    model = load_model(options.model)
    if options.prompt:
        return _on_prompt(model, options.prompt)
    if options.head is not None:
        return _one_head(model, options)
    if options.composition:
        from workbench.composition import composition

        return composition(model)
    return _over_corpus(model, options)


def _on_prompt(model: HookedModel, prompt: str) -> OnPrompt:
    from workbench.attention import attention_patterns
    from workbench.attention_flow import rollout, value_weights

    return OnPrompt(attention_patterns(model, prompt), rollout(value_weights(model, prompt).patterns))


def _one_head(model: HookedModel, options: AttentionOptions) -> OneHead:
    from workbench.head_circuits import ov_circuit, ov_spectrum, qk_circuit

    layer, head = map(int, re.findall(r"\d+", options.head or ""))
    return OneHead(
        qk_circuit(model, layer, head, offset=options.offset, k=options.top),
        ov_circuit(model, layer, head, k=options.top),
        ov_spectrum(model, layer, head),
    )


def _over_corpus(model: HookedModel, options: AttentionOptions) -> HeadTable | Routing:
    from workbench.attention_profile import CONTEXTS
    from workbench.cli.progress import progress_bar
    from workbench.corpus import open_corpus
    from workbench.head_tables import head_table
    from workbench.routing import TOKENS, routing

    def corpus() -> PackedCorpus:
        return open_corpus(options.corpus, model.tokenizer, context=min(options.context, model.info.n_ctx))

    with progress_bar(TOKENS if options.routers else CONTEXTS) as update:

        def show(done: int) -> None:
            update(completed=done)

        if options.score is not None:
            return head_table(model, options.score, corpus, on_progress=show)
        return routing(model, corpus(), k=options.top, on_progress=show)


def draw(result: OnPrompt | HeadTable | OneHead | Composition | Routing) -> list[go.Figure]:
    from workbench.composition import Composition
    from workbench.figures import attention, flow, head_circuits
    from workbench.routing import Routing

    if isinstance(result, OnPrompt):
        return [attention.grid(result.patterns), flow.rollout(result.rollout)]
    if isinstance(result, OneHead):
        pairs = [head_circuits.pairs(circuit) for circuit in (result.qk, result.ov)]
        return [*pairs, head_circuits.spectrum(result.spectrum)]
    if isinstance(result, Composition):
        return [flow.composition(result, kind) for kind in "qkv"]
    return [flow.load(result) if isinstance(result, Routing) else head_circuits.table(result)]
