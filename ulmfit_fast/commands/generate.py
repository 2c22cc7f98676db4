"""`ulmfit-fast generate`: a language model at work."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ulmfit_fast.commands.run_folder import find_model
from ulmfit_fast.commands.terminal import Terminal, count, listing, printable, shorten
from ulmfit_fast.errors import InputError
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.generation import Generation, Sampling, prompt_ids
from ulmfit_fast.training.generation import generate as generate_text
from ulmfit_fast.training.precision import PrecisionName
from ulmfit_fast.training.trainer import ULMFiTTrainer


@dataclass(frozen=True)
class GenerateOptions:
    """Options of `generate`.

    Attributes:
        model: folder of a language model, or of the run that made it.
        prompt: text to go on from; "-" takes every line of standard input.
        n_tokens: most tokens of a text.
        samples: texts for each prompt.
        temperature: as in Sampling.
        top_k: as in Sampling.
        top_p: as in Sampling.
        seed: as in Sampling.
        unknown: as in Sampling.
        device: None takes a GPU where torch sees one.
        precision: None takes the one that the model was trained with.
    """

    model: Path
    prompt: str = ""
    n_tokens: int = 100
    samples: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    unknown: bool = False
    device: str | None = None
    precision: PrecisionName | None = None


def generate(options: GenerateOptions, terminal: Terminal) -> None:
    """Write texts as they are drawn, word by word; as JSON one object for each.

    Raises:
        InputError: the model or a prompt cannot be used.
    """
    trainer = ULMFiTTrainer.load(
        find_model(options.model, "language_model"),
        device=options.device,
        precision=options.precision,
    )
    model, tokenizer = trainer.language_model, trainer.tokenizer
    if model is None or tokenizer is None:
        raise _not_a_language_model(options.model)
    n_written = 0
    for prompt in _prompts(options.prompt):
        _note_unknown(tokenizer, prompt, terminal)
        for sample in range(options.samples):
            if n_written:
                terminal.say()
            n_written += 1
            sampling = Sampling(
                options.n_tokens, options.temperature, options.top_k, options.top_p,
                options.seed, sample, options.unknown,
            )  # fmt: skip
            result = Generation()
            pieces = generate_text(
                model, tokenizer, prompt, sampling, precision=trainer.precision, result=result
            )
            text = _write(prompt.rstrip(), pieces, terminal)
            terminal.result(
                {
                    "prompt": prompt,
                    "sample": sample,
                    "text": text,
                    "n_tokens": len(result.ids),
                    "has_ended": result.has_ended,
                }
            )


def _write(prompt: str, pieces: Iterator[str], terminal: Terminal) -> str:
    """Write a prompt and what follows, each piece as it comes; return what follows."""
    if terminal.as_json:
        return "".join(pieces)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    followed, column = "", 0
    for n, piece in enumerate(chain([prompt], pieces)):
        followed += piece if n else ""
        shown, column = wrapped(_readable(piece), column, width)
        sys.stdout.write(shown)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    return followed


def wrapped(text: str, column: int, width: int | None) -> tuple[str, int]:
    """Return text that begins at a column with line ends for spaces, and the column behind it.

    Args:
        text: to be written next.
        column: how much of the line is full.
        width: of a line; None breaks none.
    """
    shown = ""
    for word in re.findall(r"\n| ?[^ \n]*", text):
        if word == "\n":
            column = 0
        elif width is not None and word.startswith(" ") and column + len(word) > width:
            shown += "\n"
            word = word[1:]
            column = len(word)
        else:
            column += len(word)
        shown += word
    return shown, column


def _readable(text: str) -> str:
    """Return text with its line ends as they are, and other control characters escaped."""
    return "\n".join(map(printable, text.split("\n")))


def _prompts(prompt: str) -> Iterator[str]:
    """Yield the prompt, or for - the lines of standard input that are not empty.

    Raises:
        InputError: a line is not UTF-8.
    """
    if prompt != "-":
        yield prompt
        return
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(
                f"standard input, line {number}: not UTF-8 text; convert it first"
            ) from error
        if text.strip():
            yield text


def _note_unknown(tokenizer: Tokenizer, prompt: str, terminal: Terminal) -> None:
    """Say which words of a prompt the model does not know."""
    ids = prompt_ids(tokenizer, prompt)
    if tokenizer.unk_id not in ids:
        return
    tokens = tokenizer.tokenize(prompt)
    unknown = [token for i, token in zip(ids, tokens, strict=True) if i == tokenizer.unk_id]
    shown = listing([repr(shorten(token, 30)) for token in dict.fromkeys(unknown)])
    what = "word" if tokenizer.kind == "word" else "character"
    named = f": {shown}" if tokenizer.kind == "word" else ""
    terminal.note(f"the model does not know {count(len(unknown), what)} of the prompt{named}")


def _not_a_language_model(path: Path) -> InputError:
    beside = path.parent / "language_model"
    advice = str(beside) if beside.is_dir() else "the language_model folder of a run"
    return InputError(f"{path}: a classifier, which cannot write; give a language model: {advice}")
