"""What an examination of a classifier finds: plain values, for a report, a table or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PartOverview:
    """The texts of one part of the data.

    Attributes:
        name: "train", "valid", "test" or "unlabelled".
        n: texts.
        classes: texts of each class; empty without labels.
        length_edges: bounds of the bins of length, tokens; one more than there are bins.
        length_counts: texts in each bin.
        median_tokens: of a text.
        longest_tokens: of a text.
        n_cut: texts longer than the classifier reads.
        unknown_share: share of words that the vocabulary does not have.
        unknown_words: the commonest of them, with their counts.
    """

    name: str
    n: int
    classes: Mapping[str, int]
    length_edges: tuple[int, ...]
    length_counts: tuple[int, ...]
    median_tokens: float
    longest_tokens: int
    n_cut: int
    unknown_share: float
    unknown_words: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Duplicate:
    """A text that stands in two parts, white space and case aside.

    Attributes:
        part, row: of the first.
        other_part, other_row: of the second.
        text: its beginning.
        labels: of both; they may contradict each other.
    """

    part: str
    row: int
    other_part: str
    other_row: int
    text: str
    labels: tuple[str, str]


@dataclass(frozen=True)
class ClassScores:
    """How well one class is found; each figure with its 95 % interval (low, high).

    Attributes:
        name: of the class.
        n: texts of it.
        precision, recall, f1: shares.
        precision_interval, recall_interval: Wilson's.
        f1_interval: of the bootstrap over texts.
    """

    name: str
    n: int
    precision: float
    precision_interval: tuple[float, float]
    recall: float
    recall_interval: tuple[float, float]
    f1: float
    f1_interval: tuple[float, float]


@dataclass(frozen=True)
class CalibrationBin:
    """Answers whose probability lies in [low, high).

    Attributes:
        low, high: bounds.
        n: answers.
        confidence: their mean probability; nan without answers.
        accuracy: share that is right; nan without answers.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities mean what they say.

    Attributes:
        bins: of equal width.
        expected_error: expected calibration error (Guo et al. 2017), a share.
        brier: mean squared error of the probabilities, summed over classes (Brier 1950).
    """

    bins: tuple[CalibrationBin, ...]
    expected_error: float
    brier: float


@dataclass(frozen=True)
class TokenScore:
    """A piece of a text, and how much it speaks for the class; the pieces give the text again.

    Attributes:
        text: as it stands in the text, with the white space before it.
        score: positive for the class, negative against it; summed they are about the difference in
            the logit that the text makes.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Attribution:
    """Why a text was put into a class.

    Attributes:
        label: the class explained.
        tokens: the pieces of the text.
        method: "integrated_gradients" or "gradient_x_input".
        gap: what the scores' sum misses of the difference in the logit; a share of it.
    """

    label: str
    tokens: tuple[TokenScore, ...]
    method: str
    gap: float


@dataclass(frozen=True)
class Neighbour:
    """A training text near another in the classifier's features.

    Attributes:
        row: of the training part, from 0.
        label: its class.
        text: its beginning.
        similarity: cosine, -1 to 1.
    """

    row: int
    label: str
    text: str
    similarity: float


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        row: of the part, from 0.
        text: its beginning.
        label: the class it has.
        answer: the class it was given.
        probability: of the answer.
        attribution: for the answer; None where it was not made.
        nearest: training texts, the nearest first.
    """

    row: int
    text: str
    label: str
    answer: str
    probability: float
    attribution: Attribution | None = None
    nearest: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Suspect:
    """A text whose label is likely wrong (confident learning, Northcutt et al. 2021).

    Attributes:
        part: "train", "valid" or "test"; of "train" the model has seen the label.
        row: of the part, from 0.
        text: its beginning.
        label: the class it has.
        suggestion: the class it likely belongs to.
        probability: that the model gives its own label.
    """

    part: str
    row: int
    text: str
    label: str
    suggestion: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """One text of the examined part.

    Attributes:
        row: of the part, from 0.
        text: its beginning.
        label: index of its class.
        answer: index of the class it was given.
        probability: of the answer.
    """

    row: int
    text: str
    label: int
    answer: int
    probability: float


@dataclass(frozen=True)
class Examination:
    """A classifier on the part it is judged by.

    Attributes:
        part: "test" or "valid".
        labels: names of the classes.
        n: texts of the part.
        accuracy: share of right answers.
        accuracy_interval: Wilson's 95 % interval.
        loss: mean cross-entropy, nats a text.
        confusion: row true class, column answer; counts.
        answers: of every text, in the order of the part.
        classes: of every class.
        calibration: of the answers.
        mistakes: the most confident first.
        suspects: the likeliest first.
        overview: of every part.
        duplicates: between parts, the first of them.
        n_duplicates: all of them, by pair of parts, such as "train, test".
    """

    part: str
    labels: tuple[str, ...]
    n: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    loss: float
    confusion: tuple[tuple[int, ...], ...]
    answers: tuple[Answer, ...]
    classes: tuple[ClassScores, ...]
    calibration: Calibration
    mistakes: tuple[Mistake, ...]
    suspects: tuple[Suspect, ...]
    overview: tuple[PartOverview, ...]
    duplicates: tuple[Duplicate, ...]
    n_duplicates: Mapping[str, int]
