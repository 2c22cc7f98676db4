"""What is wrong or odd in tables of texts and labels, before a training; needs no torch."""

from .find import NAMES, find_problems
from .finding import SEVERITIES, Example, Finding, Severity, Tables
from .summary import Summary, summarize

__all__ = [
    "NAMES",
    "SEVERITIES",
    "Example",
    "Finding",
    "Severity",
    "Summary",
    "Tables",
    "find_problems",
    "summarize",
]
