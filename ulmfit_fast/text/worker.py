"""One of the processes that tokenize: `python -m ulmfit_fast.text.worker`, fed by `workers.py`.

Standard input brings messages, standard output takes an answer to each: first a tokenizer as JSON,
or an empty message to count words; then blocks of texts. The end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import sys
from typing import BinaryIO

from .messages import pack_counts, pack_ids, read_message, unpack_texts, write_message
from .tokenizer import Tokenizer, tokenizer_of
from .vocab import count_block


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer messages until there are no more."""
    first = read_message(requests)
    if first is None:
        return
    tokenizer: Tokenizer | None = tokenizer_of(json.loads(first)) if first else None
    write_message(answers, b"")  # ready
    while (content := read_message(requests)) is not None:
        texts = unpack_texts(content)
        if tokenizer is None:
            answer = pack_counts(count_block(texts), len(texts))
        else:
            answer = pack_ids(tokenizer.encode(texts))
        write_message(answers, answer)


def main() -> None:
    """Serve standard input and output; whatever else writes to standard output goes to error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, answers)
    except BrokenPipeError:  # the process that asked is gone
        os._exit(1)


if __name__ == "__main__":
    main()
