"""Plans in place of a recipe: which layers move, how fast, and that going on keeps the plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_training import draw_texts, small_config

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.schedule import Phase, slanted_triangular
from ulmfit_fast.training.observer import Observer, Step
from ulmfit_fast.training.plan import StagePlan, stage_plan

TEXTS, LABELS = draw_texts(48)


class Rates(Observer):
    """Keeps the rates of every step."""

    def __init__(self) -> None:
        self.of: list[dict[str, float]] = []
        self.descriptions: list[str] = []

    def stage_started(self, stage: str, n_steps: int, description: str) -> None:
        self.descriptions.append(description)

    def step(self, step: Step) -> None:
        self.of.append(dict(step.rates))


def train(plan: StagePlan, folder: Path | None = None) -> tuple[ULMFiTTrainer, Rates]:
    rates = Rates()
    trainer = ULMFiTTrainer(small_config(), size="tiny", observers=[rates], checkpoints=folder)
    trainer.plans["classifier"] = plan
    trainer.train_classifier(TEXTS, LABELS)
    return trainer, rates


def test_one_layer_at_a_time_moves_only_that_layer() -> None:
    plan = StagePlan((Phase(1, 1, 0.01), Phase(1, 1, 0.001, n_above=3)), 1.0, "constant")
    first, _ = train(StagePlan(plan.phases[:1], 1.0, "constant"))
    trainer, rates = train(plan)
    assert first.classifier is not None
    assert trainer.classifier is not None
    before, after = first.classifier.layer_groups(), trainer.classifier.layer_groups()
    assert list(after) == ["embedding", "rnn0", "rnn1", "head"]
    moved = {
        name
        for name in after
        if any(not a.equal(b) for a, b in zip(before[name], after[name], strict=True))
    }
    assert moved == {"embedding"}
    n = len(rates.of) // 2
    assert [{k for k, rate in of.items() if rate} for of in rates.of] == [{"head"}] * n + [
        {"embedding"}
    ] * n
    assert rates.of[-1]["embedding"] == 0.001
    assert "1 epoch of top 1 then 1 epoch of embedding" in rates.descriptions[0]


def test_rates_fall_from_layer_to_layer_by_the_plans_decay() -> None:
    _, rates = train(StagePlan((Phase(4, 1, 0.01),), 2.0, "constant"))
    assert list(rates.of[0].values()) == pytest.approx([0.00125, 0.0025, 0.005, 0.01])


def test_schedules() -> None:
    def of(name: str) -> list[float]:
        return [StagePlan((), 1.0, name).at(i, 20, 0.7)[0] for i in range(20)]  # type: ignore[arg-type]

    assert of("constant") == [1.0] * 20
    assert of("slanted_triangular") == [slanted_triangular(i, 20) for i in range(20)]
    assert of("cosine")[0] == 1.0
    assert of("cosine")[10] == pytest.approx(0.5)
    assert of("cosine") == sorted(of("cosine"), reverse=True)
    assert StagePlan((), 1.0, "cosine").at(3, 20, 0.7)[1] == 0.7
    assert StagePlan((), 1.0, "one_cycle").at(0, 20, 0.7)[1] == pytest.approx(0.8)


def test_a_recipe_is_a_plan() -> None:
    plan = stage_plan(small_config("paper"), "classifier", 4, from_scratch=False)
    assert plan == StagePlan(
        (Phase(1, 1, 0.01), Phase(2, 1, 0.01), Phase(3, 1, 0.01), Phase(4, 1, 0.01)), 2.6
    )
    scratch = stage_plan(small_config(), "classifier", 4, from_scratch=True)
    assert scratch == StagePlan((Phase(4, 4, 0.01),), 1.0, "one_cycle")


@pytest.mark.parametrize(
    "phases",
    [(), (Phase(5, 1, 0.01),), (Phase(1, 1, 0.01, n_above=4),), (Phase(0, 1, 0.01),)],
    ids=["none", "too many", "above all", "nothing trains"],
)
def test_a_plan_for_another_model_is_refused(phases: tuple[Phase, ...]) -> None:
    with pytest.raises(InputError, match=r"plan has no phase|layer groups"):
        train(StagePlan(phases))


def test_going_on_asks_for_the_same_plan(tmp_path: Path) -> None:
    plan = StagePlan((Phase(4, 1, 0.01),), 1.0, "constant")
    train(plan, tmp_path / "checkpoints")
    again = ULMFiTTrainer.resume(tmp_path / "checkpoints")
    with pytest.raises(InputError, match="other settings"):
        again.train_classifier(TEXTS, LABELS)
    again.plans["classifier"] = plan
    assert again.train_classifier(TEXTS, LABELS).seconds > 0
