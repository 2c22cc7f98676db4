"""The variants of tables 4 to 7: which layers train when, how fast, under which schedule.

Rates are the paper's (section 5.2): 0.01 for the classifier and 0.004 for the language model with
discriminative rates; one rate for all layers is 0.001; chain-thaw has 0.001 for the head and 0.0001
for the layers below it. Without slanted triangles the rate is constant.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ulmfit_fast.schedule import Phase, gradual_unfreezing
from ulmfit_fast.training.plan import ScheduleName, StagePlan

LR_DECAY = 2.6
LM_LR, CLASSIFIER_LR, ONE_RATE, THAW_RATE = 0.004, 0.01, 0.001, 0.0001


@dataclass(frozen=True)
class Variant:
    """A row of an ablation table.

    Attributes:
        table: number in the paper.
        language_model: "none" (as pretrained), "fresh" (on the target texts, from scratch), "no"
            (none at all), or how it is tuned: full, full-discr, full-discr-stlr.
        classifier: how the classifier is trained: a name of CLASSIFIERS.
        has_dropout: False for the vanilla language model.
    """

    table: int
    language_model: str = "full-discr-stlr"
    classifier: str = "freez-discr-stlr"
    has_dropout: bool = True

    @property
    def needs_base(self) -> bool:
        """Whether it begins with a pretrained model."""
        return self.language_model not in ("fresh", "no")


VARIANTS = {
    "ulmfit": Variant(7),
    "no-pretraining": Variant(4, language_model="fresh"),
    "vanilla": Variant(5, has_dropout=False),
    "lm-none": Variant(6, language_model="none"),
    "lm-full": Variant(6, language_model="full"),
    "lm-full-discr": Variant(6, language_model="full-discr"),
    "from-scratch": Variant(7, language_model="no", classifier="scratch"),
    "full": Variant(7, classifier="full"),
    "full-discr": Variant(7, classifier="full-discr"),
    "last": Variant(7, classifier="last"),
    "chain-thaw": Variant(7, classifier="chain-thaw"),
    "freez": Variant(7, classifier="freez"),
    "freez-discr": Variant(7, classifier="freez-discr"),
    "freez-stlr": Variant(7, classifier="freez-stlr"),
    "freez-cos": Variant(7, classifier="freez-cos"),
}


def language_model_plan(name: str, n_groups: int, epochs: int) -> StagePlan:
    """Return how a language model is tuned: all layers at once.

    Args:
        name: full, full-discr or full-discr-stlr.
        n_groups: layer groups of the model.
        epochs: of the stage.
    """
    is_discriminative = "discr" in name
    lr = LM_LR if is_discriminative else ONE_RATE
    schedule: ScheduleName = "slanted_triangular" if "stlr" in name else "constant"
    decay = LR_DECAY if is_discriminative else 1.0
    return StagePlan((Phase(n_groups, epochs, lr),), decay, schedule)


def classifier_plan(name: str, n_groups: int, epochs: int) -> StagePlan:
    """Return how a classifier is trained.

    Args:
        name: scratch, full, last, chain-thaw or freez, then "-discr", "-stlr", "-cos".
        n_groups: layer groups of the model, the head among them.
        epochs: of the stage; chain-thaw shares them out, one for each group but the last.
    """
    is_discriminative = "discr" in name
    lr = CLASSIFIER_LR if is_discriminative else ONE_RATE
    decay = LR_DECAY if is_discriminative else 1.0
    schedule: ScheduleName = "constant"
    if "stlr" in name:
        schedule = "slanted_triangular"
    elif "cos" in name:
        schedule = "cosine"
    kind = name.partition("-")[0]
    if kind == "scratch":  # everything is to be learnt: the rate of a language model
        return StagePlan((Phase(n_groups, epochs, LM_LR),), 1.0, "slanted_triangular")
    if kind == "last":
        return StagePlan((Phase(1, epochs, lr),), 1.0, schedule)
    if kind == "chain":
        return StagePlan(chain_thaw(n_groups, epochs), 1.0, "constant")
    if kind == "freez":
        return StagePlan(
            tuple(gradual_unfreezing(n_groups, epochs, [lr] * n_groups)), decay, schedule
        )
    return StagePlan((Phase(n_groups, epochs, lr),), decay, schedule)


def chain_thaw(n_groups: int, epochs: int) -> tuple[Phase, ...]:
    """Return phases of one layer each: the head, then the others from the lowest up, then all.

    Epochs are shared out in equal parts, what is left over goes to the last phase; with fewer
    epochs than phases the highest of the single layers go.

    Source: Felbo et al. 2017, arXiv:1708.00524, section 3.3.
    """
    n_single = min(n_groups, epochs - 1)
    each = max(1, epochs // (n_groups + 1))
    single = [Phase(1, each, ONE_RATE)]
    single += [Phase(1, each, THAW_RATE, n_above=n_groups - 1 - k) for k in range(n_groups - 1)]
    left = epochs - each * n_single
    return (*single[:n_single], Phase(n_groups, left, THAW_RATE))


def plan_json(plan: StagePlan | None) -> dict[str, Any] | None:
    """Return a plan for a record."""
    return None if plan is None else asdict(plan)
