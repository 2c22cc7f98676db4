"""Processes that tokenize: the same results in the same order, and no process left behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmfit_fast.text import messages, vocab, worker, workers
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.tokenizer import train_tokenizer
from ulmfit_fast.text.vocab import count_words, make_vocab

TEXTS = [
    *(
        "A good film, I can't say more.",
        "",
        "half a pair: \ud800",
        "\0 and \x85 and \n",
        "Été 中文 😀",
    ),
    *(f"text number {i}, of {i % 7} words" for i in range(60)),
]
texts_of_any_kind = st.lists(st.text(st.characters(), max_size=12), max_size=6)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Have little text divided up between processes; returns those that were started."""
    monkeypatch.setattr(workers, "_CHARS_AT_A_TIME", 100)
    monkeypatch.setattr(workers, "_CHARS_FOR_PROCESSES", 200)
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return started


def test_a_text_alone_does_not_have_the_tokenizer_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = train_tokenizer(TEXTS, min_freq=1)
    monkeypatch.setattr(type(tokenizer), "content", None)
    assert len(Corpus.build(TEXTS[:1], tokenizer)) == 1


@pytest.mark.parametrize("kind", ["word", "subword"])
def test_processes_give_what_one_gives(
    kind: str, small_blocks: list[subprocess.Popen[bytes]]
) -> None:
    tokenizer = train_tokenizer(TEXTS, kind=kind, min_freq=1, processes=1)
    assert not small_blocks
    alone = Corpus.build(TEXTS, tokenizer, processes=1)
    together = Corpus.build(TEXTS, tokenizer, processes=2)
    assert len(small_blocks) == 2
    assert together.ids.tolist() == alone.ids.tolist()
    assert together.offsets.tolist() == alone.offsets.tolist()
    assert all(process.poll() is not None for process in small_blocks)


def test_processes_count_what_one_counts_in_its_order(
    small_blocks: list[subprocess.Popen[bytes]],
) -> None:
    told: list[tuple[int, int]] = []
    together = count_words(TEXTS, processes=3, progress=lambda *numbers: told.append(numbers))
    assert len(small_blocks) == 3
    assert list(together.items()) == list(count_words(TEXTS, processes=1).items())
    assert told[-1] == (65, 65)


def test_little_text_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    assert count_words(TEXTS * 10, processes=2)["xxbos"] == 650


def test_counting_forgets_the_rarest_words_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_CHARS_AT_A_TIME", 1)
    rare = [f"{chr(97 + i // 26)}x{chr(97 + i % 26)}" for i in range(400)]
    texts = [f"often {'sometimes' if i % 2 else 'thing'} {word}" for i, word in enumerate(rare)]
    exact, bounded = count_words(texts), count_words(texts, most=100)
    assert len(exact) == 404
    assert len(bounded) <= 100
    frequent = [w for w, n in exact.most_common() if n > 1]
    assert [(w, bounded[w]) for w in frequent] == [(w, exact[w]) for w in frequent]
    assert make_vocab(bounded) == make_vocab(exact)


def test_a_consumer_that_stops_early_ends_the_processes(
    small_blocks: list[subprocess.Popen[bytes]],
) -> None:
    answers = workers.work_on(TEXTS, len, (bytes, messages.unpack_counts), 2)
    next(answers)
    assert isinstance(answers, Iterator)
    answers.close()  # type: ignore[attr-defined]
    assert [process.poll() for process in small_blocks] == [-signal.SIGKILL] * 2


def test_an_error_of_the_texts_comes_through_and_ends_the_processes(
    small_blocks: list[subprocess.Popen[bytes]],
) -> None:
    def broken() -> Iterator[str]:
        yield from TEXTS
        raise ValueError("line 66 is not UTF-8")

    with pytest.raises(ValueError, match="line 66"):
        count_words(broken(), processes=2)
    assert all(process.poll() is not None for process in small_blocks)


def test_a_process_that_dies_is_an_error(
    small_blocks: list[subprocess.Popen[bytes]],
) -> None:
    def texts() -> Iterator[str]:
        for i, text in enumerate(TEXTS * 20):
            if i == 200:
                for process in small_blocks:
                    process.kill()
            yield text

    with pytest.raises(ChildProcessError, match=r"ended early \(exit status -9\)"):
        count_words(texts(), processes=2)


def test_where_none_starts_one_process_does_it_and_says_so(
    small_blocks: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = count_words(TEXTS, processes=1)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.warns(UserWarning, match="tokenizing in one process, as others do not start"):
        assert count_words(TEXTS, processes=2) == expected


SCRIPT = """
from ulmfit_fast.text import workers
from ulmfit_fast.text.vocab import count_words
import itertools, sys
workers._CHARS_AT_A_TIME, workers._CHARS_FOR_PROCESSES = 1000, 2000
print(count_words(["some words of a text"] * 400, processes=2)["words"], flush=True)
if "forever" in sys.argv:
    count_words(itertools.repeat("some words of a text"), processes=2)
"""


def test_a_script_without_a_guard_of_its_main_module_may_count(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    ran = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == (b"400\n", b"", 0)


def test_an_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, "forever"]
    # A shell starts jobs in the background with the signal ignored, and children inherit that.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"400\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, error = process.communicate(timeout=20)  # ends when all holders of the pipe are gone
    finally:
        process.kill()  # where the signal was lost it would run forever, and its workers with it
    assert error.count(b"KeyboardInterrupt") == 1


@pytest.mark.parametrize(
    ("cores", "ranks", "given", "expected"),
    [(8, None, None, 8), (8, "4", None, 2), (2, "8", None, 1), (64, "0", None, 16), (8, "4", 3, 3)],
)
def test_processes_share_the_cores_with_the_ranks_of_a_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: str | None, given: int | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert workers.n_processes(given) == expected


@settings(derandomize=True, max_examples=200, deadline=None)
@given(texts_of_any_kind)
def test_texts_and_counts_survive_a_message(texts: list[str]) -> None:
    assert messages.unpack_texts(messages.pack_texts(texts)) == texts
    counts = {text: n for n, text in enumerate(texts, 2**40)}
    assert messages.unpack_counts(messages.pack_counts(counts, 7)) == (counts, 7)


def test_a_worker_answers_in_order_until_its_input_ends() -> None:
    requests, answers = io.BytesIO(), io.BytesIO()
    messages.write_message(requests, b"")
    for texts in (["a b a"], [], ["c"]):
        messages.write_message(requests, messages.pack_texts(texts))
    requests.write(b"half a mess")
    requests.seek(0)
    worker.serve(requests, answers)
    answers.seek(0)
    assert messages.read_message(answers) == b""
    found = [messages.unpack_counts(messages.read_message(answers) or b"") for _ in range(3)]
    assert found == [({"xxbos": 1, "a": 2, "b": 1}, 1), ({}, 0), ({"xxbos": 1, "c": 1}, 1)]
    assert messages.read_message(answers) is None
    assert vocab.count_block([]) == {}
