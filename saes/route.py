"""Where in a model an SAE reads, and where what it reconstructs belongs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench import sites as site_names
from workbench.errors import SettingError

if TYPE_CHECKING:
    from saes.sae import SAE
    from workbench.model import HookedModel


class Route(NamedTuple):
    """The sites that an SAE reads and those that it writes: for an autoencoder the same."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Each site once: their activations lie side by side in a training row, in this order."""
        return tuple(dict.fromkeys(self.reads + self.writes))

    @staticmethod
    def of(metadata: Mapping[str, Any]) -> "Route":
        """The route in an SAE's metadata; empty as far as that does not say."""
        hook, out = metadata.get("hook_name"), metadata.get("hook_name_out")
        reads = tuple(metadata.get("hook_names") or ([hook] if hook else []))
        return Route(reads, (out,) if out else reads)

    def metadata(self) -> dict[str, Any]:
        """As SAELens names it; `hook_names`, for several sites, is of this workbench alone."""
        if len(self.reads) > 1:
            return {"hook_names": list(self.reads)}
        return {"hook_name": self.reads[0]} | ({"hook_name_out": self.writes[0]} if self.writes != self.reads else {})

    def __str__(self) -> str:
        if len(self.reads) > 1:
            return f"{len(self.reads)} sites from {self.reads[0]} to {self.reads[-1]}"
        return " → ".join(self.sites)


def one_site(pattern: str, known: Sequence[str], architecture: str) -> str:
    """The one site of a model that `pattern` names. Raises `UnknownSite`, and `SettingError` if there are several."""
    found = all_sites(pattern, known)
    if len(found) > 1:
        raise SettingError(
            f"{architecture} takes one site, and {pattern} names {len(found)}: {found[0]}, {found[1]}…; "
            "sae sweep trains one at each, a crosscoder reads them together"
        )
    return found[0]


def all_sites(patterns: str, known: Sequence[str]) -> tuple[str, ...]:
    """The sites that patterns with commas between them name, in the order in which the model computes them."""
    found = site_names.expand([pattern.strip() for pattern in patterns.split(",")], known)
    return tuple(sorted(found, key=known.index))


def rows_at(
    sae: "SAE", sites: Sequence[str], activations: Mapping[str, Tensor], keep: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "row width"]:
    """The activations at kept positions as rows, `sites` (the SAE's `route.sites`, or its `reads`) side by side.

    Raises `SettingError` if they do not have the widths that the SAE takes.
    """
    parts = [activations[site].flatten(2)[keep] for site in sites]
    for site, part, width in zip(sites, parts, sae.widths, strict=False):
        if part.shape[1] != width:
            raise SettingError(f"the SAE takes {width} dimensions, and {site} of this model has {part.shape[1]}")
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def check_route(sae: "SAE", model: "HookedModel") -> None:
    """Raises `SettingError` if the SAE does not say where it belongs, `UnknownSite` and `SettingError` if the model has
    no such place.
    """
    reads, writes = sae.route
    if not (reads and writes):
        raise SettingError(f"the SAE does not say at which site of the model it {'writes' if reads else 'belongs'}")
    run = model.run(torch.zeros(1, 1, dtype=torch.int64), capture=sae.route.sites)
    rows_at(sae, sae.route.sites, run.activations, torch.ones(1, 1, dtype=torch.bool, device=model.device))
