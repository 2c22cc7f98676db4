"""The closing summary: accuracy against the largest class, few and many classes, odd labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ulmfit_fast.commands.summary import say_classes, say_results
from ulmfit_fast.commands.terminal import Terminal
from ulmfit_fast.training.evaluation import Evaluation, evaluation
from ulmfit_fast.training.loop import StageResult


def evaluated(labels: list[int], answers: list[int], names: list[str]) -> Evaluation:
    logits = torch.nn.functional.one_hot(torch.tensor(answers), len(names)).float()
    return evaluation(logits, torch.tensor(labels), names)


def a_run(valid: Evaluation | None, test: Evaluation | None = None, **more: Any) -> Any:
    result = valid or test
    data = SimpleNamespace(
        classes={name: round(v["n"]) for name, v in result.per_class.items()} if result else {},
        is_held_out=True, valid=SimpleNamespace(source="train.csv"),
        test=SimpleNamespace(source="test.csv") if test else None,
    )  # fmt: skip
    stages = [
        StageResult("pretrain", 75.0, 9, [{"perplexity": 90.0}, {"perplexity": 40.0}],
                    {"perplexity": 40.0}),
        StageResult("classifier", 4000.0, 9, [{"accuracy": 0.8}], {"accuracy": 0.8}),
    ]  # fmt: skip
    values = {"results": stages, "data": data if result else None, "valid": valid, "test": test}
    return SimpleNamespace(**{**values, **more})


def test_accuracy_stands_beside_that_of_the_largest_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = evaluated([0] * 60 + [1] * 40, [0] * 58 + [1] * 42, ["neg", "pos"])
    (tmp_path / "report.html").write_text("x")
    say_results(a_run(valid), tmp_path, Terminal())
    said, warned = capsys.readouterr()
    for expected in (
        "pretrain    1 min 15 s       2  perplexity 90.0 -> 40.0 (lower is better)",
        "classifier  1 h 06 min       1  accuracy 80.00 %",
        "accuracy  98.00 %  (95 % interval 93.00 to 99.45; 98 of 100 right) on the texts held out",
        "against 60.00 % for always answering 'neg', the largest class",
        "chosen on these texts",
        "2 of class neg were taken for pos",
        f"report    {tmp_path / 'report.html'}",
    ):
        assert expected in said
    assert not warned


def test_what_is_no_better_than_the_largest_class_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = evaluated([0] * 6 + [1] * 4, [0] * 9 + [1], ["neg", "pos"])
    say_results(a_run(None, test), tmp_path, Terminal())
    said, warned = capsys.readouterr()
    assert "on the texts of test.csv" in said
    assert "chosen on these texts" not in said
    assert "report" not in said
    assert warned.startswith("warning: the accuracy is not surely better than that of the largest")


def test_a_language_model_alone_has_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(None)
    run.results = run.results[:1]
    say_results(run, tmp_path, Terminal())
    said = capsys.readouterr().out
    assert "accuracy" not in said
    assert f"model     {tmp_path / 'language_model'}" in said
    assert f"ulmfit-fast train FILE --base {tmp_path}" in said


def test_of_many_classes_the_weakest_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"class {i:03d}" for i in range(200)]
    labels = [i for i in range(200) for _ in range(3)]
    answers = [7 if i in (3, 5) else i for i in labels]
    say_classes(evaluated(labels, answers, names), Terminal(), most=12)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the 5 weakest of 200 classes:"
    assert [line.split()[1] for line in lines[2:5]] == ["003", "005", "007"]
    assert len(lines) == 2 + 5 + 2
    say_classes(evaluated(labels, answers, names), Terminal())
    assert len(capsys.readouterr().out.splitlines()) == 1 + 200 + 2


def test_labels_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["\x1b[31mred\n", "[bold]x[/bold]" + "y" * 300]
    say_classes(evaluated([0, 1, 1], [1, 1, 1], names), Terminal())
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "[bold]x[/bold]y" in said
    assert max(map(len, said.splitlines())) < 150


def test_json_leaves_out_what_is_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = evaluated([0, 1], [0, 1], ["a", "b"])
    say_results(a_run(valid), tmp_path, Terminal(as_json=True))
    assert capsys.readouterr().out == ""
