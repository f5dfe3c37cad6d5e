"""The roles of heads in indirect object identification, found from the logits backwards by path patching.

Wang et al. 2022, "Interpretability in the Wild" (arXiv:2211.00593), section 3 and appendices. Each step patches the
paths from every head to what the heads of the step before read, on prompts with three other names (p_ABC):

1. to the logits: *name movers* lower the logit difference, *negative name movers* raise it, when patched;
2. to the name movers' queries at the end: *S-inhibition*;
3. to the S-inhibition heads' values and keys at S2: *duplicate token* heads look from S2 at S1, *induction* heads at
   the token after it;
4. to the keys of the induction heads at S1+1: *previous token*;
5. to the logits again, with the heads of step 1 knocked out at the end (put at their mean over p_ABC): *backup name
   movers* are the heads without another role that now lower the logit difference.

A model may do the task in another way than GPT-2. Two roles beside the paper's say so: an *S suppressor* lowers the
logit difference in step 1, yet looks from the end at S2 more than at IO: it does not move the name of one, but takes
away that of the other. It is read in step 2 as name movers are, and in step 3 as S-inhibition heads are. A *current
token* head, of step 3, looks from S2 at S2 itself: it hands on that the name stands there, not that it stood before.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.ioi.evidence import COPYING, CORRELATION, collect, looks
from circuits.ioi.paths import READ, Head, PathStep, Places, path_step, reading, to_logits
from circuits.ioi.prompts import named_groups
from circuits.ioi.roles import (
    BACKUP,
    CURRENT,
    DUPLICATE,
    EVIDENCE,
    INDUCTION,
    NAME_MOVER,
    NEGATIVE,
    PREVIOUS,
    S_INHIBITION,
    STANDARD,
    SUPPRESSOR,
    HeadRole,
    IOIRoles,
    Thresholds,
    outputs,
)
from workbench.contrast import Pairs
from workbench.edits import Edit, replace
from workbench.errors import PromptError
from workbench.model import HookedModel
from workbench.prompts import PromptPairs
from workbench.sweep import OnProgress

N_STEPS = 6


def ioi_roles(
    model: HookedModel,
    pairs: Pairs,
    *,
    thresholds: Thresholds = STANDARD,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> IOIRoles:
    """Classify the heads of a model that does the task; the paper takes 200 prompts or more.

    `pairs`: prompts that name the answer once and the distractor twice, of any number of patterns; they are corrupted
    anew (`named_groups`, by `seed`). Heads that share keys and values are patched together as receivers of these.
    Raises `PromptError` for other prompts, and for a model that does not do the task on them.
    """
    search = _Search(model, named_groups(pairs, seed=seed), thresholds, on_progress)
    logits = search.step("the logits")
    if not logits.whole.mean() > 0:
        raise PromptError(
            f"{model.info.name} does not do this task: its mean logit difference is {logits.whole.mean():.3f}, and "
            "roles are told by what lowers it"
        )
    at_io = search.looks("end", "IO") >= search.looks("end", "S2")
    movers = search.label(NAME_MOVER, [logits], among=at_io)
    suppressors = search.label(SUPPRESSOR, [logits], among=~at_io)
    search.label(NEGATIVE, [logits], sign=1)
    direct = movers + suppressors
    inhibiting = search.label(S_INHIBITION, search.read_by("the heads that write the answer", direct, "q", "end"))
    there = suppressors + inhibiting
    at_s2 = [step for what in "vk" for step in search.read_by("the heads that look at S2", there, what, "S2")]
    looked = torch.stack([search.looks("S2", key) for key in ("S1", "S1+1", "S2")]).argmax(0)
    search.label(DUPLICATE, at_s2, among=looked == 0)
    induction = search.label(INDUCTION, at_s2, among=looked == 1)
    search.label(CURRENT, at_s2, among=looked == 2)
    search.label(PREVIOUS, search.read_by("the induction heads", induction, "k", "S1+1"))
    if direct:
        with model.holding(_knocked_out(model, search.groups, direct)):
            without = search.step("the logits, without the heads that write the answer", scale=logits.whole)
        search.label(BACKUP, [without], thresholds.backup, among=search.without_role())
    order = list(EVIDENCE)
    found = sorted(search.roles, key=lambda one: (order.index(one.role), -abs(one.effect)))
    steps = {step.receivers: step for step in search.steps}
    task = search.groups[0].name
    return IOIRoles(model.info.name, task, tuple(found), steps, search.evidence, thresholds, logits.whole)


class _Search:
    """The steps taken so far, and the roles found in them."""

    def __init__(
        self,
        model: HookedModel,
        groups: Sequence[PromptPairs],
        thresholds: Thresholds,
        on_progress: OnProgress | None,
    ) -> None:
        self.model, self.groups, self.thresholds = model, groups, thresholds
        self.evidence = collect(model, groups)
        self.steps: list[PathStep] = []
        self.roles: list[HeadRole] = []
        self._done, self._on_progress = 0, on_progress

    def step(self, receivers: str, places: Places = to_logits, scale: Tensor | None = None) -> PathStep:
        self.steps.append(path_step(self.model, self.groups, receivers, places, scale=scale, on_group=self._count))
        return self.steps[-1]

    def read_by(self, readers: str, heads: Sequence[Head], what: str, position: str) -> list[PathStep]:
        """The paths to the queries, keys or values of some heads; no step if there are none."""
        if not heads:
            return []
        places = reading(self.model, heads, what, position)
        return [self.step(f"{READ[what]} of {readers}, at {position}", places, self.steps[0].whole)]

    def label(
        self,
        role: str,
        steps: Sequence[PathStep],
        least: float | None = None,
        *,
        sign: int = -1,
        among: Bool[Tensor, "layer head"] | None = None,
    ) -> list[Head]:
        """Give a role to the heads `among` which patching has an effect of that sign, by their largest."""
        if not steps:
            return []
        least = self.thresholds.effect if least is None else least
        effects = torch.stack([sign * step.effect for step in steps])
        ends = torch.stack([torch.stack(step.interval) for step in steps])
        surely = (sign * ends).amin(1) > 0
        counts = (effects >= least) & surely & (torch.ones_like(surely) if among is None else among)
        best = torch.where(counts, effects, -torch.inf).argmax(0)
        heads = [(layer, head) for layer, head in counts.any(0).nonzero().tolist()]
        for layer, head in heads:
            number = int(best[layer, head])
            effect, interval = steps[number].effect[layer, head].item(), ends[number, :, layer, head].tolist()
            evidence = self.evidence.of(layer, head, EVIDENCE[role])
            one = (role, layer, head, steps[number].receivers, effect, tuple(interval), evidence)
            self.roles.append(HeadRole(*one, self._confirms(role, evidence)))
        return heads

    def _confirms(self, role: str, evidence: Mapping[str, float]) -> bool:
        confirmed = evidence[EVIDENCE[role][0]] >= self.thresholds.attention
        if COPYING in evidence:
            confirmed &= (-1 if role == NEGATIVE else 1) * evidence[COPYING] >= self.thresholds.copying
        if role == SUPPRESSOR:
            confirmed &= evidence[CORRELATION] < 0
        return confirmed

    def looks(self, query: str, key: str) -> Float[Tensor, "layer head"]:
        return self.evidence.by_name[looks(query, key)]

    def without_role(self) -> Bool[Tensor, "layer head"]:
        free = torch.ones_like(self.steps[0].effect, dtype=torch.bool)
        for one in self.roles:
            free[one.layer, one.head] = False
        return free

    def _count(self) -> None:
        self._done += 1
        if self._on_progress:
            self._on_progress(self._done, N_STEPS * len(self.groups))


def _knocked_out(model: HookedModel, groups: Sequence[PromptPairs], heads: Sequence[Head]) -> list[Edit]:
    """Edits that put what heads write at the end at its mean over p_ABC."""
    edits = []
    for place in outputs(heads):
        z = [model.run(group.corrupted, capture=[place.site], stop_after=place.site)[place.site] for group in groups]
        mean = torch.cat([part[:, -1, place.heads] for part in z]).mean(0)
        edits.append(replace(place.site, mean, positions=-1, heads=place.heads))
    return edits
