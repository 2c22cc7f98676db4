"""Requests are joined to batches, in turns, and one's end is none of another's business."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import WordModel

from ulmfit_fast.serve import batcher as batcher_module
from ulmfit_fast.serve.batcher import Batcher, BatchFailedError, QueueFullError
from ulmfit_fast.serve.settings import Settings

T = TypeVar("T")


def run(
    model: WordModel,
    use: Callable[[Batcher], Awaitable[T]],
    errors: list[BaseException] | None = None,
    **settings: float,
) -> T:
    """Use a batcher, and forget the model's first batch, which only makes it ready."""

    async def main() -> T:
        told = [] if errors is None else errors
        batcher = Batcher(model, Settings(**settings), told.append)
        await batcher.start()
        model.batches.clear()
        model.encoded.clear()
        try:
            return await use(batcher)
        finally:
            await batcher.stop()
            assert batcher.n_waiting == 0
            assert not batcher.is_running

    return asyncio.run(asyncio.wait_for(main(), 20))


def labels(predictions: Sequence[object]) -> list[str]:
    return [prediction.label for prediction in predictions]


def test_requests_that_come_together_share_a_batch() -> None:
    model = WordModel()
    requests = [[f"text {i}", f"a longer text {i}"] for i in range(4)]

    async def use(batcher: Batcher) -> list[list[str]]:
        found = await asyncio.gather(*(batcher.predict(texts) for texts in requests))
        assert (batcher.n_texts, batcher.n_batches) == (8, 1)
        return [labels(each) for each in found]

    assert run(model, use) == requests
    assert len(model.batches) == len(model.encoded) == 1


def test_what_comes_while_the_model_works_shares_the_next_batch() -> None:
    entered, leave = threading.Event(), threading.Event()
    model = WordModel()

    async def use(batcher: Batcher) -> None:
        model.during = lambda: (entered.set(), leave.wait(10))
        first = asyncio.create_task(batcher.predict(["first"]))
        await asyncio.to_thread(entered.wait, 10)
        others = [asyncio.create_task(batcher.predict([f"{i}"])) for i in range(5)]
        await asyncio.sleep(0)
        leave.set()
        await asyncio.gather(first, *others)

    run(model, use)
    assert model.batches == [["first"], ["0", "1", "2", "3", "4"]]


def test_a_batch_has_no_more_tokens_than_wanted_unless_it_is_one_text() -> None:
    model = WordModel()
    texts = ["a b c d e f g", "a", "b b", "c c c", "d d d"]

    async def use(batcher: Batcher) -> list[str]:
        return labels(await batcher.predict(texts))

    assert run(model, use, max_batch_tokens=6) == texts
    assert model.batches == [["a b c d e f g"], ["c c c", "d d d"], ["b b", "a"]]


def test_a_large_request_does_not_hold_up_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "TEXTS_A_TURN", 2)
    model = WordModel()
    large = [f"large {i}" for i in range(20)]

    async def use(batcher: Batcher) -> list[str]:
        ended: list[str] = []

        async def ask(name: str, texts: list[str]) -> None:
            assert labels(await batcher.predict(texts)) == texts
            ended.append(name)

        await asyncio.gather(ask("large", large), ask("small", ["one", "two", "three"]))
        return ended

    assert run(model, use, max_batch_tokens=8) == ["small", "large"]
    assert model.batches[0] == ["large 0", "large 1", "one", "two", "large 2"]


def test_a_full_queue_refuses_one_more_and_no_other() -> None:
    leave = threading.Event()
    model = WordModel()

    async def use(batcher: Batcher) -> None:
        model.during = lambda: leave.wait(10)
        held = [asyncio.create_task(batcher.predict([f"{i}"])) for i in range(3)]
        await asyncio.sleep(0.05)
        assert batcher.n_waiting == 3
        with pytest.raises(QueueFullError):
            await batcher.predict(["one more"])
        leave.set()
        assert [labels(found) for found in await asyncio.gather(*held)] == [["0"], ["1"], ["2"]]
        await batcher.predict(["now there is room"])

    run(model, use, max_waiting=3)


@pytest.mark.parametrize("when", ["before its batch", "in its batch"])
def test_a_request_that_is_given_up_leaves_the_others(when: str) -> None:
    entered, leave = threading.Event(), threading.Event()
    model = WordModel()

    async def use(batcher: Batcher) -> None:
        model.during = lambda: (entered.set(), leave.wait(10))
        first = asyncio.create_task(batcher.predict(["first"]))
        await asyncio.to_thread(entered.wait, 10)
        second = asyncio.create_task(batcher.predict(["second"]))
        await asyncio.sleep(0)
        given_up, kept = (second, first) if when == "before its batch" else (first, second)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert batcher.n_waiting == 1
        leave.set()
        assert labels(await kept) in (["first"], ["second"])

    run(model, use)
    expected = [["first"]] if when == "before its batch" else [["first"], ["second"]]
    assert model.batches == expected


@pytest.mark.parametrize("step", ["encode", "classify"])
def test_an_error_of_the_model_fails_its_batch_alone(step: str) -> None:
    model = WordModel()
    errors: list[BaseException] = []

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    async def use(batcher: Batcher) -> None:
        setattr(model, step, fail)
        for found in await asyncio.gather(
            batcher.predict(["a"]), batcher.predict(["b"]), return_exceptions=True
        ):
            assert isinstance(found, BatchFailedError)
        delattr(model, step)
        assert batcher.is_running
        assert labels(await batcher.predict(["c"])) == ["c"]

    run(model, use, errors)
    assert [str(error) for error in errors] == ["no memory"]


@settings(deadline=None)  # a thread starts in every example
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(0, 2**6 - 1),
)
def test_every_request_gets_its_own_answers_in_order(
    lengths: list[list[int]], max_batch_tokens: int, given_up: int
) -> None:
    model = WordModel()
    requests = [
        [" ".join([f"{i}.{k}"] * n) for k, n in enumerate(request)]
        for i, request in enumerate(lengths)
    ]

    async def use(batcher: Batcher) -> list[list[str] | None]:
        tasks = [asyncio.create_task(batcher.predict(texts)) for texts in requests]
        await asyncio.sleep(0)
        for i, task in enumerate(tasks):
            if given_up >> i & 1:
                task.cancel()
        await asyncio.wait(tasks)
        return [None if task.cancelled() else labels(task.result()) for task in tasks]

    found = run(model, use, max_batch_tokens=max_batch_tokens, max_wait_ms=0.0)
    kept = [None if given_up >> i & 1 else texts for i, texts in enumerate(requests)]
    assert found == kept
    for batch in model.batches:
        n_tokens = sum(len(text.split()) for text in batch)
        assert n_tokens <= max_batch_tokens or len(batch) == 1
    answered = sorted(text for batch in model.batches for text in batch)
    assert answered == sorted(text for texts in kept if texts for text in texts)
