"""Variants of the ablations: what each trains, how fast, and under which schedule."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.accuracy import published
from benchmarks.accuracy.plans import VARIANTS, classifier_plan, language_model_plan

N_GROUPS, EPOCHS = 5, 12
CLASSIFIERS = sorted({variant.classifier for variant in VARIANTS.values()})


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("epochs", [1, 2, 4, 12, 50])
def test_a_plan_has_the_epochs_that_are_asked_for(name: str, epochs: int) -> None:
    plan = classifier_plan(name, N_GROUPS, epochs)
    plan.check(N_GROUPS)
    assert sum(phase.epochs for phase in plan.phases) == epochs


def test_no_two_classifiers_and_no_two_language_models_are_the_same() -> None:
    plans = [classifier_plan(name, N_GROUPS, EPOCHS) for name in CLASSIFIERS]
    plans += [
        language_model_plan(name, 4, EPOCHS) for name in ("full", "full-discr", "full-discr-stlr")
    ]
    for one, other in itertools.combinations(plans, 2):
        assert one != other


def test_what_trains_when() -> None:
    def trained(name: str) -> list[list[int]]:
        plan = classifier_plan(name, N_GROUPS, EPOCHS)
        return [list(phase.trained(N_GROUPS)) for phase in plan.phases]

    everything = [0, 1, 2, 3, 4]
    assert trained("full") == trained("full-discr") == trained("scratch") == [everything]
    assert trained("last") == [[4]]
    assert trained("chain-thaw") == [[4], [0], [1], [2], [3], everything]
    gradual = [[4], [3, 4], [2, 3, 4], [1, 2, 3, 4], everything]
    for name in ("freez", "freez-discr", "freez-stlr", "freez-cos", "freez-discr-stlr"):
        assert trained(name) == gradual


def test_rates_are_the_papers() -> None:
    def of(name: str) -> tuple[list[float], float, str]:
        plan = classifier_plan(name, N_GROUPS, EPOCHS)
        return [phase.lr for phase in plan.phases], plan.lr_decay, plan.schedule

    assert of("full") == ([0.001], 1.0, "constant")
    assert of("full-discr") == ([0.01], 2.6, "constant")
    assert of("last") == ([0.001], 1.0, "constant")
    assert of("chain-thaw") == ([0.001, *[0.0001] * 5], 1.0, "constant")
    assert of("freez-stlr") == ([0.001] * 5, 1.0, "slanted_triangular")
    assert of("freez-cos") == ([0.001] * 5, 1.0, "cosine")
    assert of("freez-discr-stlr") == ([0.01] * 5, 2.6, "slanted_triangular")
    assert language_model_plan("full", 4, 3).phases[0].lr == 0.001
    assert language_model_plan("full-discr-stlr", 4, 3).lr_decay == 2.6


def test_every_variant_has_its_published_numbers_and_its_table() -> None:
    assert published.ABLATIONS.keys() == VARIANTS.keys()
    assert {variant.table for variant in VARIANTS.values()} == {4, 5, 6, 7}
    assert len(set(VARIANTS.values())) == len(VARIANTS)
