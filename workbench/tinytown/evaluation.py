"""How well a model knows Tinytown: every skill on held-out material, and the loss on repeated random words."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.heads import HeadScores, head_scores
from workbench.metrics import LOGIT_DIFFERENCE
from workbench.model import HookedModel
from workbench.prompts import PromptPairs
from workbench.tinytown.language import Language
from workbench.tinytown.tasks import TASKS, task_prompts


@dataclass(frozen=True)
class SkillScore:
    """One skill on held-out prompts."""

    skill: str
    accuracy: float
    """Share of prompts whose answer has a higher logit than the distractor."""
    logit_difference: float
    """Mean logit of the answer minus that of the distractor."""
    prompts: int


@dataclass(frozen=True)
class Evaluation:
    """Every skill, and what the attention heads do on repeated random words."""

    skills: tuple[SkillScore, ...]
    heads: HeadScores

    def __str__(self) -> str:
        lines = [f"{'skill':<16}{'accuracy':>10}{'logit difference':>20}{'prompts':>10}"]
        lines += [f"{s.skill:<16}{s.accuracy:>10.1%}{s.logit_difference:>20.2f}{s.prompts:>10}" for s in self.skills]
        return "\n".join([*lines, "", str(self.heads)])


def evaluate(model: HookedModel, *, examples: int = 400, seed: int = 0) -> Evaluation:
    """Measure a model on `examples` held-out prompts a skill, and on repeated random words."""
    language = Language()
    skills = tuple(score(model, task_prompts(skill, examples, seed=seed, language=language)) for skill in TASKS)
    return Evaluation(skills, head_scores(model, batch=32, seed=seed))


def score(model: HookedModel, task: list[PromptPairs]) -> SkillScore:
    """How often, and by how much, the answer has a higher logit than the distractor after the clean prompts."""
    difference = torch.cat([logit_difference(model, pairs) for pairs in task])
    return SkillScore(task[0].name, (difference > 0).float().mean().item(), difference.mean().item(), len(difference))


def logit_difference(model: HookedModel, pairs: PromptPairs) -> Float[Tensor, " example"]:
    """Logit of the answer minus that of the distractor, after the clean prompt."""
    logits = model.run(pairs.clean).logits[:, -1].cpu()
    return LOGIT_DIFFERENCE(logits, pairs, logits)
