"""What the fuzzer's targets read is read or refused in one line: their seeds, and a few changes."""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz.models import small_trainer
from fuzz.run import TARGETS, instrumented
from fuzz.vocabulary import hashed, tokenizers

from ulmfit_fast import InputError, TrainConfig, ULMFiTTrainer
from ulmfit_fast.errors import LONGEST_MESSAGE
from ulmfit_fast.files import LARGEST_JSON, parse_json, read_regular
from ulmfit_fast.text import read_table
from ulmfit_fast.text.tokenizer import load_tokenizer
from ulmfit_fast.training.tensor_file import LARGEST_HEADER, parse_tensors

N_CHANGES = 200
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_changes_of_them_are_read_or_refused(name: str) -> None:
    target, draw = importlib.import_module(f"fuzz.{name}"), random.Random(name)
    seeds = target.seeds()
    n_refused = sum(target.run(seed) for seed in draw.sample(seeds, min(100, len(seeds))))
    for _ in range(N_CHANGES):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(data) + 1)
            data[place : place + draw.randint(0, 1)] = draw.randbytes(draw.randint(0, 4))
        n_refused += target.run(bytes(data))
    assert 0 < n_refused < N_CHANGES + 100  # else it would not get far, or change nothing


def test_a_target_says_what_the_fuzzer_shall_look_at() -> None:
    for name in TARGETS:
        for module in instrumented(name):
            assert importlib.import_module(module)


@pytest.mark.parametrize(
    "change",
    [
        {"rules": "\0"}, {"rules": None}, {"kind": None}, {"kind": "\ud800"}, {"vocab": 3},
        {"vocab": [["a"]]}, {"scores": None}, {"scores": [[]] * 12}, {"scores": [math.nan] * 12},
        {"scores": [10**400] * 12}, {"vocab": ["xxunk", "xxpad", "xxbos", "\ud800"]},
        {"version": "x" * 3000},
    ],
    ids=lambda change: ascii(change)[:30],
)  # fmt: skip
@pytest.mark.parametrize("kind", [0, 1], ids=["word", "subword"])
def test_a_tokenizer_with_an_odd_value_is_refused(tmp_path: Path, kind: int, change: Any) -> None:
    if kind == 0 and ("scores" in change or "ud800" in ascii(change.get("vocab"))):
        return  # words have none, and may be half a character
    values = {**json.loads(tokenizers()[kind]), **change}
    (tmp_path / "tokenizer.json").write_bytes(hashed(json.dumps(values).encode()))
    assert_refused(lambda: load_tokenizer(tmp_path / "tokenizer.json"))


def assert_refused(read: Callable[[], object], message: str = "") -> None:
    with pytest.raises(InputError) as error:
        read()
    assert message in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= LONGEST_MESSAGE


SETTINGS: dict[str, tuple[tuple[str, ...], Any]] = {
    "no dropouts": (("pretrain",), {}),
    "a list of dropouts": (("pretrain", "dropouts"), [1]),
    "a list for a number": (("bptt",), [1]),
    "a text for a number": (("classifier", "lr"), "0.1"),
    "no finite number": (("eps",), math.nan),
    "true for a number": (("max_len",), True),
    "half a number": (("seed",), 0.5),
    "a number of 31 digits": (("seed",), 10**30),
    "three betas": (("betas",), [0.1, 0.2, 0.3]),
    "no recipe": (("recipe",), "none"),
    "a stage of another kind": (("language_model",), "x"),
}


@pytest.mark.parametrize("what", SETTINGS)
def test_settings_with_an_odd_value_are_refused(what: str) -> None:
    path, value = SETTINGS[what]
    values = TrainConfig.preset("paper").to_dict()
    assert TrainConfig.from_dict(json.loads(json.dumps(values))) == TrainConfig.preset("paper")
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert_refused(lambda: TrainConfig.from_dict(values))
    assert_refused(lambda: TrainConfig.from_dict({**values, "\ud800": 1}))
    assert_refused(lambda: TrainConfig.from_dict([1]))  # type: ignore[arg-type]


def test_json_too_deep_is_refused_and_numbers_too_long() -> None:
    for content in (b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000, b"\xff", b""):
        assert_refused(lambda content=content: parse_json(content, "t"), "not valid JSON")


def header(entries: Any, n_bytes: int = 8) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(n_bytes)


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HOSTILE = {
    "a length of 2^63": (2**63).to_bytes(8, "little") + b"{}",
    "a length of 2^64 - 1": b"\xff" * 8 + b"{}",
    "a length beyond the file": (100).to_bytes(8, "little") + b"{}",
    "no length": b"\1\0",
    "a header of 5 MB": header(b'{"' + b"a" * (5 << 20) + b'": 1}'),
    "nothing": b"",
    "overlapping": header({"a": entry(), "b": entry()}),
    "a gap": header({"a": entry(), "b": entry(offsets=(12, 20))}, 20),
    "beyond the end": header({"a": entry((1000,), (0, 4000))}),
    "a huge shape": header({"a": entry((2**62, 2**62))}),
    "a shape that wraps": header({"a": entry((2**63, 2), (0, 0))}),
    "a negative shape": header({"a": entry((-2,))}),
    "offsets backwards": header({"a": entry(offsets=(8, 0))}),
    "a dtype that lies": header({"a": entry(dtype="F64")}),
    "an unknown dtype": header({"a": entry(dtype="F3")}),
    "a dtype of no type of torch": header({"a": entry((16,), dtype="F4")}),
    "NaN": header(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}'),
    "deep": header(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "a list": header(b"[]"),
    "no JSON": header(b"{'a': 1}"),
    "data behind the tensors": header({"a": entry()}, 12),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_tensors_are_refused(what: str) -> None:
    assert_refused(lambda: parse_tensors(HOSTILE[what], "m"), "not readable")


def test_a_name_twice_gives_one_tensor_within_the_file() -> None:
    one = json.dumps(entry())[:-1]
    text = b'{"a": ' + one.encode() + b'}, "a": ' + one.encode() + b"}}"
    try:
        tensors = parse_tensors(header(text), "m")
    except InputError:
        return
    assert [list(t.shape) for t in tensors.values()] == [[2]]


def test_a_large_header_takes_no_memory_to_refuse() -> None:
    assert LARGEST_HEADER < 100 << 20  # the library's own limit, which takes it 2 GB to parse
    names = b",".join(b'"t%07d": 1' % k for k in range(400_000))
    assert_refused(lambda: parse_tensors(header(b"{" + names + b"}"), "m"), "not readable")


def model(folder: Path) -> Path:
    small_trainer("classifier").save(folder)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
def test_pipes_devices_and_folders_in_a_model_are_refused_at_once(
    tmp_path: Path, name: str
) -> None:
    folder = model(tmp_path / "m")

    def pipe(path: Path) -> None:
        os.mkfifo(path)

    makers: dict[str, Callable[[Path], None]] = {
        "a pipe": pipe,
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a folder": lambda path: path.mkdir(),
        "cannot be read": lambda path: path.symlink_to(path),
    }
    for kind, make in makers.items():
        (folder / name).unlink()
        make(folder / name)
        done: list[str] = []
        thread = threading.Thread(
            target=lambda done=done: done.append(refusal(folder)), daemon=True
        )
        thread.start()
        thread.join(timeout=60)
        assert done, f"{kind}: waits"
        # A link to itself is no file at all.
        assert (
            kind in done[0]
            or (kind == "cannot be read" and "missing" in done[0])
            or (name == "config.json" and "no config.json" in done[0])
        )
        (folder / name).rmdir() if kind == "a folder" else (folder / name).unlink()
        (folder / name).write_bytes(b"{}")


def refusal(folder: Path) -> str:
    try:
        ULMFiTTrainer.load(folder, device="cpu")
    except InputError as error:
        return str(error)
    return "was read"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_to_a_file_of_others_shows_nothing_of_it(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("user:hunter2:0:0\n")
    folder = model(tmp_path / "m")
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    message = refusal(folder)
    assert "hunter2" not in message
    assert name in message


def test_a_model_of_links_is_read_as_the_hub_keeps_them(tmp_path: Path) -> None:
    folder, blobs = model(tmp_path / "m"), tmp_path / "blobs"
    blobs.mkdir()
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert refusal(folder) == "was read"


def test_no_more_is_read_than_a_file_may_have(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_JSON + 1)  # a hole: no disk, but memory if it was read
    assert_refused(lambda: read_regular(path, LARGEST_JSON), "at most")


def test_a_packed_table_damaged_behind_an_odd_byte_is_refused(tmp_path: Path) -> None:
    import gzip

    packed = bytearray(gzip.compress(b"text\n\xff\n" + bytes(range(65, 90)) * 9))
    packed[-6] ^= 1  # its checksum
    (tmp_path / "t.csv.gz").write_bytes(packed)
    assert_refused(lambda: read_table(tmp_path / "t.csv.gz"), "t.csv.gz")


def test_messages_are_one_printable_line_whatever_stands_in_them() -> None:
    odd = (
        "two\nlines",
        "\x1b[2J",
        "\ud800",
        "\u202e",
        "\u2028",
        "\0",
        "x" * 10**6,
        "\ud800" * 5000,
    )
    for text in odd:
        message = str(InputError(f"t.csv: {text}: mend it"))
        assert message.isprintable()
        assert len(message) <= LONGEST_MESSAGE
        assert message.startswith("t.csv: ")
        assert message.endswith(": mend it")
    assert str(InputError("t.csv: café, 表, 😀")) == "t.csv: café, 表, 😀"
