"""Examinations to JSON and back, without torch, and damaged ones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest
from conftest import ROOT

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.examination import (
    Answer,
    Attribution,
    Calibration,
    CalibrationBin,
    ClassScores,
    Duplicate,
    Examination,
    Mistake,
    Neighbour,
    PartOverview,
    Suspect,
    TokenScore,
)
from ulmfit_fast.interpret.examination_json import from_json, to_json

ODD = "</script> \x00 \u202e ﬁ 👍 \ud800 \n"
EXAMINATION = Examination(
    part="test",
    labels=("a", ODD),
    n=2,
    accuracy=0.5,
    accuracy_interval=(0.1, 0.9),
    loss=1.0,
    confusion=((1, 0), (1, 0)),
    answers=(Answer(0, "x", 0, 0, 1.0), Answer(1, ODD, 1, 0, 0.75)),
    classes=(ClassScores("a", 1, 0.5, (0.0, 1.0), 1.0, (0.2, 1.0), 2 / 3, (0.0, 1.0)),),
    calibration=Calibration((CalibrationBin(0.0, 1.0, 0, math.nan, math.nan),), 0.25, 0.1),
    mistakes=(
        Mistake(1, ODD, ODD, "a", 0.75, Attribution("a", (TokenScore(ODD, -0.5),), "x", math.nan),
                (Neighbour(3, "a", "y", 0.5),)),
        Mistake(1, "", ODD, "a", 0.75),
    ),
    suspects=(Suspect("train", 3, "y", "a", ODD, 0.01),),
    overview=(PartOverview("test", 2, {ODD: 1}, (0, 1, 2), (1, 1), 1.5, 2, 0, 0.0, {"z": 1}),),
    duplicates=(Duplicate("train", 1, "test", 0, "x", ("a", "")),),
    n_duplicates={"train, test": 1},
)  # fmt: skip


def test_examination_comes_back_as_it_was() -> None:
    text = to_json(EXAMINATION)
    assert text.isascii()
    assert "\n" not in text
    assert "NaN" not in text
    back = from_json(text)
    assert repr(back) == repr(EXAMINATION)  # nan is not equal to itself
    assert to_json(back) == text
    assert isinstance(back.accuracy_interval, tuple)
    assert isinstance(back.overview[0].classes, Mapping)
    assert math.isnan(back.calibration.bins[0].accuracy)
    whole = replace(EXAMINATION, calibration=Calibration((), 0.0, 0.0), mistakes=())
    assert from_json(to_json(whole)) == whole


def test_neither_torch_nor_pandas_nor_numpy_is_imported() -> None:
    code = (
        "import sys; from ulmfit_fast.interpret.examination_json import from_json\n"
        "from_json(sys.stdin.read())\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules), 'imported'\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=to_json(EXAMINATION),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def damaged() -> list[tuple[str, str]]:
    content = json.loads(to_json(EXAMINATION))
    return [
        ("", "not an examination: no JSON"),
        ("[" * 100_000, "not an examination: no JSON"),
        ("[1]", "not an examination: give a file"),
        ('{"format": "other"}', "not an examination: give a file"),
        (json.dumps({**content, "version": 99}), "examination of version 99, this release reads 1"),
        (json.dumps({**content, "n": "2"}), r"examination\.n: the examination is damaged"),
        (json.dumps({**content, "n": True}), r"examination\.n: the examination is damaged"),
        (json.dumps({**content, "new": 1}), "examination: the examination is damaged"),
        (json.dumps({**content, "loss": []}), r"examination\.loss: "),
        (json.dumps({**content, "labels": "ab"}), r"examination\.labels: "),
        (json.dumps({**content, "accuracy_interval": [0]}), r"examination\.accuracy_interval: "),
        (json.dumps({**content, "mistakes": [{"row": 1}]}), r"examination\.mistakes\[0\]: "),
        (json.dumps({**content, "mistakes": None}), r"examination\.mistakes: "),
        (json.dumps({k: v for k, v in content.items() if k != "part"}), "examination: the"),
    ]


@pytest.mark.parametrize(("text", "message"), damaged(), ids=range(len(damaged())))
def test_damaged_examinations_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        from_json(text)
    assert "\n" not in str(error.value)
