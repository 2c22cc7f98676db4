"""Folders of safetensors, JSON and a manifest, of which the bytes of a fuzzer change something."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fuzz.draws import Draw, edited_bytes, edited_file, edited_json
from fuzz.vocabulary import hashed

Files = dict[str, bytes]


def contents(folder: Path) -> Files:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def edited_folder(files: Mapping[str, bytes], hashes: Sequence[str], draw: Draw) -> Files:
    """Return files with one or two changed; mostly the manifest has the hashes of the changed ones.

    Args:
        files: good ones.
        hashes: those that manifest.json names.
        draw: chooses.
    """
    changed = dict(files)
    for _ in range(1 + draw.below(2)):
        name = draw.pick(sorted(files))
        if name.endswith(".safetensors"):
            changed[name] = edited_tensors(changed[name], draw)
        else:
            changed[name] = _edited_or_kept(changed[name], draw)
        if name == "tokenizer.json" and draw.byte() < 240:
            changed[name] = hashed(changed[name])
    if changed["manifest.json"] == files["manifest.json"] and draw.byte() < 240:
        digests = {name: hashlib.sha256(changed[name]).hexdigest() for name in hashes}
        changed["manifest.json"] = (json.dumps(digests, indent=1) + "\n").encode()
    return changed


def _edited_or_kept(content: bytes, draw: Draw) -> bytes:
    """Return a changed JSON file; as it is where an earlier change left no JSON."""
    try:
        return edited_file(content, draw)
    except (ValueError, RecursionError):
        return content


def edited_tensors(data: bytes, draw: Draw) -> bytes:
    """Return a safetensors file changed anywhere, mostly in its header with the length repaired."""
    what = draw.below(8)
    if what == 0:
        return edited_bytes(data, draw)
    if what == 1:
        return draw.rest()
    if what == 2:
        length = draw.pick((0, 1, 2**31, 2**63, 2**64 - 1, len(data), 100_000_001, 7))
        return length.to_bytes(8, "little") + data[8:]
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    try:
        values = json.loads(header)
    except (ValueError, RecursionError):
        return data
    if what == 3:
        header = edited_bytes(header, draw)
    elif what == 4:  # one tensor's entry in the place of another
        first, second = draw.pick(sorted(values)), draw.pick(sorted(values))
        values[first] = values[second]
        header = json.dumps(values).encode()
    elif what == 5:  # a name twice
        header = header[:-1] + b"," + json.dumps(edited_json(values, draw)).encode()[1:]
    else:
        header = json.dumps(edited_json(values, draw)).encode()
    return len(header).to_bytes(8, "little") + header + rest


class Written:
    """A folder of good files, in which changed ones are put for a while."""

    def __init__(self, folder: Path, files: Files) -> None:
        self.folder, self.files = folder, files
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        self._written = dict(files)

    def put(self, changed: Files) -> None:
        """Write the files that differ from what stands there."""
        for name, content in changed.items():
            if self._written[name] != content:
                (self.folder / name).write_bytes(content)
                self._written[name] = content
