"""Steering: a direction added to the residual stream, clamped there or taken out of it, while the model writes."""

from dataclasses import dataclass

from workbench import edits
from workbench.directions import Direction
from workbench.edits import Edit, Selection
from workbench.errors import SettingError
from workbench.generation import Generation
from workbench.model import HookedModel, Prompts

HOW = ("add", "clamp", "ablate")


def steering_edit(
    direction: Direction, dose: float | int = 1.0, how: str = "add", *, positions: Selection = None
) -> Edit:
    """The edit that steers by a dose of a direction, at all positions or those chosen.

    add: h + dose · v (Turner et al. 2023, arXiv:2308.10248; Rimsky et al. 2023, arXiv:2312.06681).
    clamp: the component along v is set to where a dose of v carries the negative examples' mean, whatever it was: at 0
    every activation reads as a typical negative example, at 1 as a positive one (Templeton et al. 2024, for latents).
    ablate: the component along v is removed (Arditi et al. 2024, arXiv:2406.11717); the dose does not matter.

    A direction with a row for each position is added at the first positions, as many as it has. Raises `SettingError`
    for another `how`, and where such a direction is to be clamped, ablated, or put elsewhere.
    """
    if how not in HOW:
        raise SettingError(f"steering has no how={how!r}; it has {', '.join(HOW)}")
    vector = direction.vector
    if vector.ndim == 2:
        if how != "add" or positions is not None:
            raise SettingError(
                f"{direction.name!r} has a vector for each position; it can only be added where they are"
            )
        positions = slice(0, len(vector))
    if how == "add":
        return edits.add(direction.site, vector, float(dose), positions=positions)
    if how == "clamp":
        value = direction.start + dose * direction.norm
        return edits.clamp(direction.site, vector, value, positions=positions)
    return edits.project_out(direction.site, vector, positions=positions)


@dataclass(frozen=True)
class Steered:
    """Continuations of the same prompts with the same seeds, without and with steering. Prints them side by side."""

    direction: Direction
    how: str
    dose: float
    plain: list[Generation]
    steered: list[Generation]

    def __str__(self) -> str:
        lines = [f"{self.how} {self.dose:g} × {self.direction}"]
        for before, after in zip(self.plain, self.steered, strict=True):
            lines += ["", f"  plain    {before}", f"  steered  {after}"]
        return "\n".join(lines)


def steer(
    model: HookedModel,
    direction: Direction,
    prompts: Prompts,
    dose: float | int = 1.0,
    how: str = "add",
    *,
    positions: Selection = None,
    **sampling: int | float | bool | None,
) -> Steered:
    """Continue prompts with and without steering; `sampling` is for `HookedModel.generate_batch`.

    Raises `ModelError` for a direction of another model, and what `steering_edit` and `generate_batch` raise.
    """
    direction.check(model)
    edit = steering_edit(direction, dose, how, positions=positions)
    plain, steered = (model.generate_batch(prompts, edits=chosen, **sampling) for chosen in ([], [edit]))
    return Steered(direction, how, float(dose), plain, steered)
