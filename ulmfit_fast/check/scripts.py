"""Which script a text is written in: Latin, Cyrillic, Han, ..."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

# First code points and the scripts whose letters follow; "" where several share.
_STARTS, _SCRIPTS = zip(
    *((0x41, "Latin"), (0x370, "Greek"), (0x400, "Cyrillic"), (0x530, "Armenian"),
      (0x590, "Hebrew"), (0x600, "Arabic"), (0x780, "other"), (0x900, "Devanagari"),
      (0x980, "Indic"), (0xE00, "Thai"), (0xE80, "other"), (0x10A0, "Georgian"), (0x1100, "Hangul"),
      (0x1200, "other"), (0x1C80, "Cyrillic"), (0x1C90, "Georgian"), (0x1CC0, "other"),
      (0x1D00, "Latin"), (0x1F00, "Greek"), (0x2000, ""), (0x2C60, "Latin"), (0x2C80, "other"),
      (0x2DE0, "Cyrillic"), (0x2E00, ""), (0x2E80, "Han"), (0x3040, "Japanese"), (0x3100, "Han"),
      (0x3130, "Hangul"), (0x31A0, "Han"), (0xA000, "other"), (0xA640, "Cyrillic"),
      (0xA720, "Latin"), (0xA800, "other"), (0xAC00, "Hangul"), (0xD7B0, ""), (0xF900, "Han"),
      (0xFB00, "Latin"), (0xFB1D, "Hebrew"), (0xFB50, "Arabic"), (0xFE00, ""), (0xFE70, "Arabic"),
      (0xFF00, "Latin"), (0xFF66, "Japanese"), (0xFFA0, "Hangul"), (0x10000, "other"),
      (0x1D400, ""), (0x20000, "Han"), (0x32000, "other")), strict=True,
)  # fmt: skip
#: A text in these is one word between spaces.
SCRIPTS_WITHOUT_SPACES = ("Han", "Japanese", "Thai")
# Letters of a text that its script is told by.
_LETTERS = 400


def script_of(text: str) -> tuple[str, int]:
    """Return the script that most of a text's first letters are of, and how many; "" for none."""
    if text.isascii():
        return "Latin", sum(map(str.isalpha, text[:_LETTERS]))
    letters = [character for character in text[: 2 * _LETTERS] if character.isalpha()][:_LETTERS]
    scripts = Counter(_SCRIPTS[max(0, bisect_right(_STARTS, ord(c)) - 1)] for c in letters)
    del scripts[""]
    if not scripts:
        return "", 0
    script, n = scripts.most_common(1)[0]
    return script, n
