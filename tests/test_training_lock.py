"""Two trainers do not write into one folder; a dead process keeps nobody out."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from resume_runs import At, asks_to_stop, make_checkpoints, quick_config, start
from small_training import draw_texts

from ulmfit_fast import InputError, ULMFiTTrainer
from ulmfit_fast.errors import TrainingStopped
from ulmfit_fast.training.lock import LOCK, _fcntl, locked
from ulmfit_fast.training.observer import Observer
from ulmfit_fast.training.resume import Checkpoints

TEXTS = draw_texts(20)[0]
HOLD = (
    "import sys, time; from pathlib import Path; from ulmfit_fast.training.lock import locked\n"
    "with locked(Path(sys.argv[1])):\n print('held', flush=True)\n time.sleep(60)\n"
)


def trainer_of(folder: Path, *observers: Observer) -> ULMFiTTrainer:
    return ULMFiTTrainer(
        quick_config(), size="tiny", device="cpu", checkpoints=folder, observers=observers
    )


def test_a_folder_is_one_trainers_at_a_time(tmp_path: Path) -> None:
    """Both were made while the folder was empty, and call at once, as two processes could."""
    found: list[str] = []

    def call_the_other() -> None:
        for call in (lambda: other.pretrain(TEXTS), lambda: ULMFiTTrainer.resume(tmp_path)):
            with pytest.raises(InputError) as raised:
                call()
            found.append(str(raised.value))

    other = trainer_of(tmp_path)
    first = trainer_of(tmp_path, At("pretrain", 3, call_the_other))
    first.pretrain(TEXTS)
    assert (
        found
        == [f"{tmp_path}: another training is still at it; wait for it, or give another folder"] * 2
    )
    assert first.language_model is not None
    assert not (tmp_path / LOCK).exists()
    with pytest.raises(InputError, match="has checkpoints of a training that was stopped"):
        other.pretrain(TEXTS)


def test_checkpoints_that_another_wrote_between_two_stages_are_found(tmp_path: Path) -> None:
    first = trainer_of(tmp_path)
    first.pretrain(TEXTS)
    second = ULMFiTTrainer.resume(tmp_path)
    second.pretrain(TEXTS)
    second.finetune_lm(TEXTS)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="another trainer has written checkpoints there since"):
        first.finetune_lm(TEXTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_stopped_training_goes_on_in_the_same_process(tmp_path: Path) -> None:
    checkpoints = make_checkpoints(tmp_path)
    stopper = At("pretrain", 3, asks_to_stop(checkpoints))
    trainer = start(quick_config(), tmp_path, checkpoints, stopper)
    with pytest.raises(TrainingStopped):
        trainer.pretrain(TEXTS)
    resumed = ULMFiTTrainer.resume(tmp_path / "checkpoints")
    resumed.pretrain(TEXTS)
    resumed.finetune_lm(TEXTS)


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="still at it"), locked(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the one that held it may remove the file."""
    opens = os.open

    def slow(path: Path, *arguments: int) -> int:
        descriptor = opens(path, *arguments)
        monkeypatch.setattr(os, "open", opens)
        Path(path).unlink()
        return descriptor

    monkeypatch.setattr(os, "open", slow)
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()
        with pytest.raises(InputError, match="still at it"), locked(tmp_path):
            pass


@pytest.mark.parametrize("has_msvcrt", [True, False])
def test_what_only_unix_has_is_not_needed(tmp_path: Path, has_msvcrt: bool) -> None:
    """Without fcntl and SIGUSR1, as on Windows; its msvcrt locks, and nothing without it."""
    if has_msvcrt:
        (tmp_path / "msvcrt.py").write_text(
            "LK_NBLCK = 2\nheld = set()\n"
            "def locking(fd, mode, n):\n"
            "    import errno, os\n"
            "    key = os.fstat(fd).st_ino\n"
            "    if key in held: raise PermissionError(errno.EACCES, 'taken')\n"
            "    held.add(key)\n"
        )
    code = (
        "import sys, signal, importlib.util, subprocess, enum\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "find = importlib.util.find_spec\n"
        "class Unix:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'fcntl': raise ModuleNotFoundError(name)\n"
        "sys.modules.pop('fcntl', None); sys.meta_path.insert(0, Unix())\n"
        "importlib.util.find_spec = lambda n, p=None: None if n == 'fcntl' else find(n, p)\n"
        "signal.Signals = enum.IntEnum('Signals', [(s.name, s) for s in signal.Signals "
        "if s.name != 'SIGUSR1'])\n"
        "del signal.SIGUSR1\n"
        "from pathlib import Path\n"
        "import ulmfit_fast.cli, ulmfit_fast.commands.train\n"
        "from ulmfit_fast.training.lock import locked\n"
        "from ulmfit_fast.training.stopping import SIGNALS\n"
        "assert [s.name for s in SIGNALS] == ['SIGINT', 'SIGTERM'], SIGNALS\n"
        "from ulmfit_fast import InputError\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with locked(folder):\n"
        "    try:\n"
        "        with locked(folder): sys.stdout.write('twice')\n"
        "    except InputError: sys.stdout.write('once')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ("once" if has_msvcrt else "twice")


def test_a_folder_that_cannot_be_locked_is_used_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said: list[str] = []
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints", warn=said.append)
    with checkpoints.locked(), checkpoints.locked():
        assert checkpoints.paths() == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, "not here")

    monkeypatch.setattr(_fcntl, "flock", refuse)
    with locked(tmp_path), locked(tmp_path):
        pass


def test_a_lock_whose_file_cannot_be_removed_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(OSError, match="read-only"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
