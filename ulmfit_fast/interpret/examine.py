"""Everything that can be said of a trained classifier, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ulmfit_fast.errors import InputError
from ulmfit_fast.interpret.attribution import METHODS, N_STEPS, attribute
from ulmfit_fast.interpret.examination import (
    Answer,
    Attribution,
    Examination,
    Mistake,
    Neighbour,
    PartOverview,
    Suspect,
)
from ulmfit_fast.interpret.features import Reader
from ulmfit_fast.interpret.label_errors import label_errors
from ulmfit_fast.interpret.parts import (
    PARTS,
    Part,
    excerpt,
    find_duplicates,
    length_edges,
    part_overview,
)
from ulmfit_fast.interpret.statistics import (
    Counts,
    Floats,
    calibrate,
    check_probabilities,
    class_scores,
    count_confusion,
    cross_entropy,
    wilson_interval,
)
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.training.documents import class_indices
from ulmfit_fast.training.trainer import ULMFiTTrainer


@dataclass(frozen=True)
class ExamineOptions:
    """How much an examination says.

    Attributes:
        n_explained: mistakes with attribution and neighbours, the most confident.
        n_neighbours: of each of these.
        n_mistakes: most of them.
        n_suspects: most of them.
        n_duplicates: most of them.
        n_characters: of the beginning of a text.
        most_tokens: of a text whose attribution is made.
        method: of attribution.
        n_steps: of integrated gradients.
        seed: of the bootstrap.
    """

    n_explained: int = 20
    n_neighbours: int = 3
    n_mistakes: int = 200
    n_suspects: int = 100
    n_duplicates: int = 50
    n_characters: int = 300
    most_tokens: int = 5000
    method: str = METHODS[0]
    n_steps: int = N_STEPS
    seed: int = 0


def examine(
    trainer: ULMFiTTrainer, parts: Mapping[str, Part], options: ExamineOptions | None = None
) -> Examination:
    """Examine a classifier on the part it is judged by: "test", or "valid" where that is empty.

    Every labelled part is read once. The same arguments give the same examination.

    Args:
        trainer: with a classifier.
        parts: "train", "valid", "test" and "unlabelled", those that there are.
        options: None takes the defaults.

    Raises:
        InputError: no classifier, neither test nor validation texts, a part of another name, a
            label that the classifier does not have, or probabilities that are not numbers.
    """
    options = options or ExamineOptions()
    if trainer.classifier is None or trainer.tokenizer is None:
        raise InputError("no classifier: call train_classifier, or load a classifier")
    _check_parts(parts)
    parts = {name: parts[name] for name in PARTS if name in parts}
    judged = next((name for name in ("test", "valid") if name in parts and parts[name].texts), None)
    if judged is None:
        raise InputError("nothing to examine: neither test nor validation part has a text")
    corpora = {name: Corpus.build(part.texts, trainer.tokenizer) for name, part in parts.items()}
    indices = {
        name: np.array(class_indices(part.labels, trainer.labels), dtype=np.int64)
        for name, part in parts.items()
        if part.labels
    }
    mistakes, probabilities = _read_parts(trainer, parts, corpora, (judged, indices), options)
    right = probabilities[judged].argmax(axis=1) == indices[judged]
    confusion = count_confusion(
        indices[judged], probabilities[judged].argmax(axis=1), len(trainer.labels)
    )
    duplicates, n_duplicates = find_duplicates(
        parts, n_shown=options.n_duplicates, n_characters=options.n_characters
    )
    names = tuple(trainer.labels)
    return Examination(
        part=judged,
        labels=names,
        n=len(right),
        accuracy=float(right.mean()),
        accuracy_interval=wilson_interval(int(right.sum()), len(right)),
        loss=cross_entropy(probabilities[judged], indices[judged]),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        answers=_answers(parts[judged], probabilities[judged], indices[judged], options),
        classes=class_scores(confusion, names, seed=options.seed),
        calibration=calibrate(probabilities[judged], indices[judged]),
        mistakes=mistakes,
        suspects=_suspects(parts, probabilities, indices, names, options),
        overview=_overview(trainer, parts, corpora),
        duplicates=duplicates,
        n_duplicates=n_duplicates,
    )


def _check_parts(parts: Mapping[str, Part]) -> None:
    """Raise InputError for a part of an unknown name, or without a label for each text."""
    for name, part in parts.items():
        if name not in PARTS:
            raise InputError(f"no part {name!r}: name them {', '.join(PARTS)}")
        if name == "unlabelled" and not part.labels:
            continue
        if len(part.labels) != len(part.texts):
            raise InputError(
                f"{name}: {len(part.texts)} texts and {len(part.labels)} labels: give one label "
                "for each text"
            )


def _read_parts(
    trainer: ULMFiTTrainer,
    parts: Mapping[str, Part],
    corpora: Mapping[str, Corpus],
    judged_by: tuple[str, Mapping[str, Counts]],
    options: ExamineOptions,
) -> tuple[tuple[Mistake, ...], dict[str, Floats]]:
    """Return the mistakes, and the probabilities [n, C] of every labelled part.

    The judged part is read first, so that of the training texts only the similarities to its
    explained mistakes are kept, not their features.
    """
    judged, indices = judged_by
    reader = Reader(trainer)
    shape = len(trainer.labels)
    probabilities = {name: np.zeros((len(parts[name].texts), shape)) for name in indices}
    features = np.zeros((0, 0), dtype=np.float32)
    for read in reader.read(corpora[judged]):
        if not len(features):
            features = np.zeros((len(corpora[judged]), read.features.shape[1]), dtype=np.float32)
        features[read.rows] = read.features
        probabilities[judged][read.rows] = read.probabilities
    check_probabilities(probabilities[judged])
    rows = _mistaken(probabilities[judged], indices[judged])[: options.n_mistakes]
    wanted = features[rows[: options.n_explained]]  # [M, 3E]
    n_train = len(corpora["train"]) if "train" in indices else 0
    similarity = np.zeros((len(wanted), n_train), dtype=np.float32)
    for name in indices:
        if name == judged:
            continue
        for read in reader.read(corpora[name]):
            probabilities[name][read.rows] = read.probabilities
            if name == "train":
                similarity[:, read.rows] = wanted @ read.features.T
    attributions = _explain(trainer, parts[judged], corpora[judged], rows, probabilities[judged],
                            options)  # fmt: skip
    mistakes = tuple(
        Mistake(
            row=int(row),
            text=excerpt(parts[judged].texts[row], options.n_characters),
            label=parts[judged].labels[row],
            answer=trainer.labels[int(probabilities[judged][row].argmax())],
            probability=float(probabilities[judged][row].max()),
            attribution=attributions.get(int(row)),
            nearest=_nearest(parts["train"], similarity[place], options)
            if n_train and place < len(similarity)
            else (),
        )
        for place, row in enumerate(rows)
    )
    return mistakes, probabilities


def _mistaken(probabilities: Floats, labels: Counts) -> Counts:
    """Return the rows of wrong answers, the most confident first, ties in the order of rows."""
    rows = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return rows[np.argsort(-probabilities[rows].max(axis=1), kind="stable")]


def _explain(
    trainer: ULMFiTTrainer,
    part: Part,
    corpus: Corpus,
    rows: Counts,
    probabilities: Floats,
    options: ExamineOptions,
) -> dict[int, Attribution]:
    """Return the attribution of the first mistakes' answers, by row."""
    lengths = corpus.lengths()
    chosen = [int(r) for r in rows[: options.n_explained] if lengths[r] <= options.most_tokens]
    answers = [trainer.labels[int(probabilities[row].argmax())] for row in chosen]
    texts = [part.texts[row] for row in chosen]
    made = attribute(trainer, texts, answers, method=options.method, n_steps=options.n_steps)
    return dict(zip(chosen, made, strict=True))


def _nearest(
    train: Part, similarity: np.ndarray[tuple[int], np.dtype[np.float32]], options: ExamineOptions
) -> tuple[Neighbour, ...]:
    """Return the training texts of the greatest similarity, ties in the order of rows."""
    order = np.argsort(-similarity, kind="stable")[: options.n_neighbours]
    return tuple(
        Neighbour(
            row=int(row),
            label=train.labels[row],
            text=excerpt(train.texts[row], options.n_characters),
            similarity=min(1.0, max(-1.0, float(similarity[row]))),
        )
        for row in order
    )


def _answers(
    part: Part, probabilities: Floats, labels: Counts, options: ExamineOptions
) -> tuple[Answer, ...]:
    chosen = probabilities.argmax(axis=1).tolist()
    best = probabilities.max(axis=1).tolist()
    return tuple(
        Answer(row, excerpt(text, options.n_characters), label, answer, probability)
        for row, (text, label, answer, probability) in enumerate(
            zip(part.texts, labels.tolist(), chosen, best, strict=True)
        )
    )


def _suspects(
    parts: Mapping[str, Part],
    probabilities: Mapping[str, Floats],
    indices: Mapping[str, Counts],
    names: Sequence[str],
    options: ExamineOptions,
) -> tuple[Suspect, ...]:
    """Return the texts of all labelled parts whose label is likely wrong, the likeliest first."""
    found = [
        Suspect(
            part=name,
            row=row,
            text=excerpt(parts[name].texts[row], options.n_characters),
            label=parts[name].labels[row],
            suggestion=names[suggestion],
            probability=float(probabilities[name][row, indices[name][row]]),
        )
        for name in indices
        for row, suggestion in label_errors(probabilities[name], indices[name])[
            : options.n_suspects
        ]
    ]
    found.sort(key=lambda suspect: suspect.probability)  # stable
    return tuple(found[: options.n_suspects])


def _overview(
    trainer: ULMFiTTrainer, parts: Mapping[str, Part], corpora: Mapping[str, Corpus]
) -> tuple[PartOverview, ...]:
    model, tokenizer = trainer.classifier, trainer.tokenizer
    if model is None or tokenizer is None:
        raise InputError("no classifier: call train_classifier, or load a classifier")
    lengths = {name: corpus.lengths() for name, corpus in corpora.items()}
    edges = length_edges(list(lengths.values()))
    most = max(model.max_len, model.bptt)  # the last chunk is always pooled
    return tuple(
        part_overview(name, part, lengths[name], edges, tokenizer, most)
        for name, part in parts.items()
    )
