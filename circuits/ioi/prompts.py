"""Prompts of indirect object identification, with the positions that roles are told by, and three other names.

Wang et al. 2022, arXiv:2211.00593, section 2: IO is the indirect object, which is the answer; S1 and S2 are where the
subject stands; `end` is the last token. The paper's p_ABC puts three names that do not fit each other in their place,
so that nothing in the prompt says whom to name.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.contrast import Pairs, groups
from workbench.errors import PromptError
from workbench.prompts import PromptPairs

POSITIONS = ("IO", "S1", "S1+1", "S2", "end")


def name_tokens(pairs: Pairs) -> Int[Tensor, " name"]:
    """The names of some prompts: all that is an answer or a distractor."""
    return torch.cat([torch.cat([group.answers, group.distractors]) for group in groups(pairs)]).unique()


def named_groups(pairs: Pairs, *, seed: int = 0) -> list[PromptPairs]:
    """The pairs, those with their names in the same places together, with `POSITIONS`, corrupted to p_ABC.

    The corrupted prompts that the pairs come with are not used. Other names are drawn from `name_tokens`, by `seed`.
    Raises `PromptError` for prompts that do not name the answer once, and the distractor twice before their end.
    """
    listed, names = groups(pairs), name_tokens(pairs)
    if len(names) < 5:
        raise PromptError(f"these prompts have {len(names)} names; three others for each prompt take at least 5")
    generator = torch.Generator().manual_seed(seed)
    together: dict[tuple[int, ...], list[PromptPairs]] = {}
    for group in listed:
        places = _places(group)
        for place in places.unique(dim=0):
            rows = (places == place).all(1)
            columns = [column[rows] for column in (group.clean, group.answers, group.distractors)]
            corrupted = _other_names(columns[0], place, names, generator)
            part = PromptPairs(group.name, columns[0], corrupted, *columns[1:])
            together.setdefault((group.clean.shape[1], *place.tolist()), []).append(part)
    return list(_joined(together))


def _places(group: PromptPairs) -> Int[Tensor, "example 3"]:
    """Where IO, S1 and S2 stand in each prompt."""
    is_io, is_s = group.clean == group.answers[:, None], group.clean == group.distractors[:, None]
    wrong = (is_io.sum(1) != 1) | (is_s.sum(1) != 2) | is_s[:, -1] | is_io[:, -1]
    if wrong.any():
        raise PromptError(
            f"prompt {int(wrong.nonzero()[0])} of {group.name!r} is not one of indirect object identification: it must "
            "name the answer once, and the distractor twice before its end"
        )
    return torch.cat([is_io.nonzero()[:, 1:], is_s.nonzero()[:, 1].unflatten(0, (-1, 2))], dim=1)


def _other_names(
    clean: Int[Tensor, "example pos"], place: Int[Tensor, "3"], names: Int[Tensor, " name"], generator: torch.Generator
) -> Int[Tensor, "example pos"]:
    """Three names, each another, none of them in the prompt, where IO, S1 and S2 were."""
    own = (clean[:, place, None] == names).any(1)
    order = torch.rand(own.shape, generator=generator).masked_fill(own, -1).argsort(dim=1, descending=True)
    corrupted = clean.clone()
    corrupted[:, place] = names[order[:, :3]]
    return corrupted


def _joined(together: dict[tuple[int, ...], list[PromptPairs]]) -> Iterator[PromptPairs]:
    for (length, io, s1, s2), parts in together.items():
        columns = ("clean", "corrupted", "answers", "distractors")
        joined = {column: torch.cat([getattr(part, column) for part in parts]) for column in columns}
        positions = dict(zip(POSITIONS, (io, s1, s1 + 1, s2, length - 1), strict=True))
        yield replace(parts[0], **joined, positions=positions)
