"""`ulmfit-fast inspect`: why a classifier answers as it does."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ulmfit_fast.commands.apply import load_classifier, read_standard_input
from ulmfit_fast.commands.terminal import Terminal, count, printable, shorten
from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.attribution import attribute
from ulmfit_fast.interpret.examination import Attribution, TokenScore
from ulmfit_fast.interpret.pieces import WordScore, word_scores
from ulmfit_fast.training.evaluation import Prediction

#: Texts that are explained at a time, so that the first of many is shown soon.
N_TEXTS = 16
N_CLASSES_SHOWN = 3
N_CHARACTERS_OF_WORD = 24
# Backgrounds, which people with any colour vision tell apart: for a class blue, against it orange.
FOR, AGAINST = (86, 160, 232), (242, 154, 66)
# Beside the strongest piece, what is weaker than this share of it has no colour.
WEAKEST = 0.1


@dataclass(frozen=True)
class InspectOptions:
    """Options of `inspect`.

    Attributes:
        model: folder of a classifier, or of the run that made it.
        text: what to explain; "-" is standard input, one text a line.
        label: class to explain; None takes the most probable.
        method: of attribution.
        n_words: strongest words to list, for and against.
        encoding: of standard input; None is UTF-8.
        device: None takes a GPU where torch sees one.
    """

    model: Path
    text: str
    label: str | None = None
    method: str = "integrated_gradients"
    n_words: int = 8
    encoding: str | None = None
    device: str | None = None


def inspect(options: InspectOptions, terminal: Terminal) -> None:
    """Print the answer for each text and what its words add to it.

    Raises:
        InputError: the model or the text cannot be used, or the model has no such class.
    """
    if options.text != "-" and not options.text.strip():
        raise InputError("TEXT is empty: give a text, or - for the lines of standard input")
    trainer = load_classifier(options.model, options.device)
    if options.label is not None and options.label not in trainer.labels:
        known = ", ".join(trainer.labels[:10])
        raise InputError(f"--label {options.label}: not a class of the model (classes: {known})")
    rows, texts = [1], [options.text]
    if options.text == "-":
        table = read_standard_input(options.encoding)
        rows, texts = table.rows, table.texts
        if table.skipped:
            terminal.note(f"{count(len(table.skipped), 'line')} without text skipped")
    for start in range(0, len(texts), N_TEXTS):
        some = texts[start : start + N_TEXTS]
        predictions = trainer.predict(some)
        labels = [options.label or prediction.label for prediction in predictions]
        attributions = attribute(trainer, some, labels, method=options.method)
        for place, answer in enumerate(zip(some, predictions, attributions, strict=True), start):
            if terminal.as_json:
                terminal.result(_values(rows[place], *answer))
                continue
            if place:
                terminal.say()
            _say(*answer[1:], options.n_words, terminal)


def _say(
    prediction: Prediction, attribution: Attribution, n_words: int, terminal: Terminal
) -> None:
    """Print one answer for people."""
    shares = sorted(prediction.probabilities.items(), key=lambda entry: -entry[1])
    others = ", ".join(f"{name} {100 * p:.1f} %" for name, p in shares[1 : 1 + N_CLASSES_SHOWN])
    n_more = len(shares) - 1 - N_CLASSES_SHOWN
    more = f" and {n_more} more" if n_more > 0 else ""
    terminal.say(f"{prediction.label} {100 * shares[0][1]:.1f} %  ({others}{more})")
    explained = attribution.label
    terminal.say()
    console = Console(file=sys.stdout, highlight=False)
    console.print(coloured(attribution.tokens), soft_wrap=not console.is_terminal)
    terminal.say()
    words = word_scores(attribution.tokens)
    strongest = [word for word in words[:n_words] if word.score > 0]
    weakest = [word for word in words[::-1][:n_words] if word.score < 0]
    for side, chosen in ((f"for {explained}", strongest), (f"against {explained}", weakest)):
        _say_words(side, chosen, terminal)
    total = sum(piece.score for piece in attribution.tokens)
    missed = "" if math.isnan(attribution.gap) else f"; off by {100 * attribution.gap:.1f} %"
    terminal.say(f"  sum {total:+.3f} log-odds of {explained}{missed}")


def _say_words(side: str, words: Sequence[WordScore], terminal: Terminal) -> None:
    """Print words with their scores, and how often they stand in the text."""
    rows = [(side, "times", "score")]
    for word in words:
        shown = shorten(word.word, N_CHARACTERS_OF_WORD)
        rows.append((shown, str(word.n), f"{word.score:+.3f}"))
    if len(rows) == 1:
        rows.append(("-", "", ""))
    terminal.table(rows)


def coloured(pieces: Sequence[TokenScore]) -> Text:
    """Return a text with its pieces on blue (for) and orange (against), the stronger the fuller.

    Control characters are written as escapes.
    """
    most = max((abs(piece.score) for piece in pieces), default=0.0)
    text = Text()
    for piece in pieces:
        shown = printable(piece.text)
        n_spaces = len(shown) - len(shown.lstrip(" "))
        text.append(shown[:n_spaces])
        strength = abs(piece.score) / most if most else 0.0
        colour = FOR if piece.score > 0 else AGAINST
        style = None if strength < WEAKEST else f"black on {_mixed(colour, strength)}"
        text.append(shown[n_spaces:], style)
    return text


def _mixed(colour: tuple[int, int, int], strength: float) -> str:
    """Return a colour mixed with white: a quarter of it at strength 0, all of it at 1."""
    share = 0.25 + 0.75 * strength
    red, green, blue = (round(255 + share * (c - 255)) for c in colour)
    return f"rgb({red},{green},{blue})"


def _values(
    row: int, text: str, prediction: Prediction, attribution: Attribution
) -> dict[str, object]:
    """Return one answer for programs."""
    return {
        "row": row,
        "text": text,
        **asdict(prediction),
        "explained": attribution.label,
        "method": attribution.method,
        "gap": None if math.isnan(attribution.gap) else attribution.gap,
        "tokens": [asdict(piece) for piece in attribution.tokens],
    }
