"""Packed tables that unpack to 10 GB: refused, in bounded memory and time."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

PART = 16 << 20
N_PARTS = 640  # 10 GB
MOST_MB = 1200
READ = """
import sys
from pathlib import Path
from ulmfit_fast.errors import InputError
from ulmfit_fast.text import read_table
try:
    read_table(sys.argv[1])
except InputError as error:
    print(error)
# ru_maxrss begins with what the process that forked had.
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(int(peak) // 1024)
"""


@pytest.mark.parametrize(
    ("name", "content"), [("t.csv.gz", b"\0"), ("t.csv.xz", b"a"), ("t.jsonl.gz", b"a")]
)
def test_ten_gigabytes_without_a_line_end_take_bounded_memory(
    tmp_path: Path, name: str, content: bytes
) -> None:
    pack = gzip.compress if name.endswith("gz") else lambda data: lzma.compress(data, preset=0)
    (tmp_path / name).write_bytes(pack(content * PART) * N_PARTS)
    ran = subprocess.run(
        [sys.executable, "-c", READ, tmp_path / name],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    message, peak = ran.stdout.splitlines()
    assert "line 1: " in message
    assert ("NUL byte" in message) == (content == b"\0")
    assert int(peak) < MOST_MB
