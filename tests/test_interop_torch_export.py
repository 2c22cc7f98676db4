"""Exported torch programs: equal to the models when loaded again, for any batch and length."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import export_models
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast import InputError
from ulmfit_fast.interop.exportable import zero_state
from ulmfit_fast.interop.torch_export import export_program, load_program

# float32; the op is the same, so only the order of sums in pooling may differ.
ALLOWED = 1e-5


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "classifier.pt2"
    export_program(export_models.classifier(), path)
    return path


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "lm.pt2"
    export_program(export_models.language_model(), path)
    return path


def test_classifier_is_the_same_for_any_batch_and_length(classifier: Path) -> None:
    model = export_models.classifier().eval()
    program, _ = load_program(classifier)
    lengths = st.lists(st.integers(1, 60), min_size=1, max_size=6)

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(lengths=lengths, more=st.integers(0, 9), seed=st.integers(0, 99))
    def check(lengths: list[int], more: int, seed: int) -> None:
        ids, n = export_models.draw_batch(lengths, more, seed)
        with torch.no_grad():
            torch.testing.assert_close(program(ids, n), model(ids, n), atol=ALLOWED, rtol=0)

    check()


def test_language_models_state_goes_in_and_comes_out(language_model: Path) -> None:
    model = export_models.language_model().eval()
    program, _ = load_program(language_model)
    for rows in (1, 4):
        found = wanted = zero_state(model.encoder, rows)
        for n in (1, 12, 5):
            ids, _ = export_models.draw_batch([n] * rows, seed=n)
            with torch.no_grad():
                (logits, found), (expected, wanted) = program(ids, found), model(ids, wanted)
            torch.testing.assert_close(logits, expected, atol=ALLOWED, rtol=0)
            torch.testing.assert_close(found, wanted, atol=ALLOWED, rtol=0)


def test_file_loads_in_another_process_that_imports_the_ops(classifier: Path) -> None:
    code = (
        "import sys, torch, ulmfit_fast.functional\n"
        "program = torch.export.load(sys.argv[1]).module()\n"
        "logits = program(torch.ones(2, 9, dtype=torch.int64), torch.tensor([9, 4]))\n"
        "sys.stdout.write(str(list(logits.shape)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, classifier], cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "[2, 3]"), ran.stderr


def test_file_names_nothing_of_this_machine(classifier: Path, language_model: Path) -> None:
    for path in (classifier, language_model):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                written = archive.read(name)
                assert str(ROOT).encode() not in written, name
                assert sys.prefix.encode() not in written, name


def test_trainer_brings_its_tokenizer_and_labels(tmp_path: Path) -> None:
    trainer = export_models.trainer_with()
    export_program(trainer, tmp_path / "m.pt2", texts=export_models.TEXTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.pt2", "m.tokenizer.json"]
    _, about = load_program(tmp_path / "m.pt2")
    assert (about["kind"], about["labels"]) == ("classifier", ["bad", "good", "ünï"])


def test_bad_files_are_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this file exists"):
        export_program(export_models.classifier(), classifier)
    with pytest.raises(InputError, match="no such file"):
        load_program(tmp_path / "m.pt2")
    (tmp_path / "bad.pt2").write_bytes(classifier.read_bytes()[:3000])
    with pytest.raises(InputError, match="cut off"):
        load_program(tmp_path / "bad.pt2")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("a.txt", "nothing")
    with pytest.raises(InputError, match="torch cannot load it"):
        load_program(tmp_path / "other.pt2")
