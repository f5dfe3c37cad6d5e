"""What the circuit commands can be told. Imports nothing heavy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from workbench.errors import SettingError

MethodName = Literal[
    "eap", "eap-ig", "eap-ig-activations", "clean-corrupted", "exact", "nodes", "flow", "masks", "acdc", "random"
]
AblationName = Literal["resample", "zero", "mean", "optimal"]


@dataclass(frozen=True)
class SearchOptions:
    """How a circuit is looked for."""

    model: str = "tinytown"
    """The bundled "tinytown", a Hugging Face directory, or a hub id."""
    method: MethodName = "eap-ig"
    """How edges are scored: gradients (eap, eap-ig, eap-ig-activations, clean-corrupted), each edge ablated by itself
    (exact), scores of nodes, information flow, learned masks, ACDC at falling thresholds, or at random."""
    edges: float = 0.1
    """How many edges to keep: up to 1 a share of all edges, above a number of them."""
    ablation: AblationName = "resample"
    """What stands in for an edge that is not kept: the corrupted prompt's value, zero, the mean of clean prompts, or
    the constant that disturbs the model least."""
    absolute: bool = False
    """Rank edges by the size of their effect; otherwise those that work for the answer come first."""
    examples: int = 100
    """Prompt pairs to score edges on; as many others are held out. Of a file, one half each."""
    seed: int = 0
    """Of prompts, random circuits, and masks."""

    @property
    def ranking(self) -> str:
        return "absolute" if self.absolute else "signed"

    def __post_init__(self) -> None:
        if not self.edges > 0 or (self.edges > 1 and self.edges != int(self.edges)):
            raise SettingError(f"edges is {self.edges:g}; it must be a share, above 0 and up to 1, or a whole number")
        if self.examples < 1:
            raise SettingError(f"examples is {self.examples}; it must be at least 1")


@dataclass(frozen=True)
class FindOptions(SearchOptions):
    """Score every edge of a model on a task, keep the best ones, and measure them on prompts held out."""

    task: str = "ioi"
    """What the model is asked: the name of a task, as "ioi", "greater_than", "agreement" (a wrong name lists all), or a
    .csv or .jsonl file of prompt pairs (clean, corrupted, answer, distractor)."""
    sentence: int | None = None
    """Only this one of the task's sentences, counted from 1."""
    by_position: bool = False
    """Tell the edges of each position apart, in prompts in which a position means the same throughout."""
    units: int = 0
    """So many neurons of the MLPs, those that matter most, are nodes of their own; the rest of an MLP stays one."""
    latents: bool = False
    """Units are latents of transcoders, not neurons."""
    transcoders: tuple[Path, ...] = ()
    """For latents: directories of transcoders, or of SAEs at blocks.N.hook_mlp_out, or one directory that holds them;
    with the bundled model they may be left out."""
    out: Path | None = None
    """A new directory for circuit.json, scores.safetensors and evaluation.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units < 0 or (self.latents and not self.units):
            raise SettingError(f"units is {self.units}; say how many, as --units 32")
        if self.transcoders and not self.latents:
            raise SettingError("transcoders are given, but units are neurons; say --latents")


@dataclass(frozen=True)
class SurveyOptions(SearchOptions):
    """Find and test the circuit of each task of a model, one after the other; broken off, it goes on where it was."""

    out: Path = field(kw_only=True)
    """A directory of directories, one for each task, as `workbench circuit find` writes them."""
    tasks: tuple[str, ...] = ()
    """The tasks; all that are asked in what the model speaks, if left out."""


@dataclass(frozen=True)
class ScoreOptions:
    """Faithfulness, completeness and minimality of a circuit on prompts that it was not found on."""

    circuit: Positional[Path]
    """The directory that `workbench circuit find` wrote."""
    task: str | None = None
    """Another task, or a .csv or .jsonl file of prompt pairs; otherwise the circuit's own with another seed."""
    model: str | None = None
    """The model, if it has moved; it must be the one that the circuit was found in."""
    examples: int = 100
    """Prompt pairs to draw. Those that the circuit was found on are left out."""
    seed: int | None = None
    """Of the prompts and the random circuits; the one after the seed that the circuit was found with, if left out."""
    transcoders: tuple[Path, ...] = ()
    """The transcoders or SAEs whose latents are nodes of the circuit, if they have moved."""


@dataclass(frozen=True)
class ShowOptions:
    """Write a page about a circuit that opens in any browser, without a network."""

    circuit: Positional[Path]
    """The directory that `workbench circuit find` wrote."""
    out: Path | None = None
    """The page; report.html in the circuit's directory, if left out."""
