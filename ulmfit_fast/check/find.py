"""All checks, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .characters import find_damage, find_markup, find_other_scripts
from .finding import SEVERITIES, Finding, Tables
from .labels import (
    find_classes,
    find_given_away,
    find_missing_labels,
    find_sorted,
    find_unknown_labels,
    find_variants,
)
from .near import find_near_repeats
from .repeats import find_leaks, find_repeats
from .texts import find_boilerplate, find_empty, find_long, find_no_texts, find_short

#: Every kind of finding of `find_problems`.
NAMES = (
    "one-class", "no-classes", "no-text", "unknown-label", "empty-text", "no-label", "rare-class",
    "unequal-classes", "label-variants", "conflicting-labels", "duplicates", "near-duplicates",
    "leak", "label-in-text", "encoding", "control-characters", "html", "boilerplate", "long-texts",
    "short-texts", "other-script", "unmeasured-class", "sorted",
)  # fmt: skip

_ALWAYS: tuple[Callable[[Tables], Iterator[Finding]], ...] = (
    find_empty, find_missing_labels, find_classes, find_variants, find_unknown_labels, find_leaks,
    find_damage, find_markup, find_sorted,
)  # fmt: skip
# What a column that holds no texts would fail one after the other.
_OF_TEXTS: tuple[Callable[[Tables], Iterator[Finding]], ...] = (
    find_repeats, find_near_repeats, find_given_away, find_boilerplate, find_long, find_short,
    find_other_scripts,
)  # fmt: skip


def find_problems(tables: Tables) -> list[Finding]:
    """Look for everything that is wrong or odd, in time and memory linear in the texts.

    Returns:
        findings: the gravest first.
    """
    findings = list(find_no_texts(tables))
    checks = _ALWAYS if findings else _ALWAYS + _OF_TEXTS
    for check in checks:
        findings += check(tables)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
