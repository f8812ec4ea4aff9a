"""Texts with their classes and owners, checked and converted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fedlab.core.validate import check_test_pair
from fedlab.data.convert import to_labels, to_owners


class HeldOut(NamedTuple):
    """Test texts, which no client trains on.

    Attributes:
        texts: The texts.
        labels: The class of each ``[n]``.
        owner: The name of each text's owner ``[n]``, or None.
        prompts: The prompt of each text ``[n]``, or None.
        responses: The response to each prompt ``[n]``, or None.
    """

    texts: Sequence[str]
    labels: np.ndarray
    owner: np.ndarray | None = None
    prompts: Sequence[str] | None = None
    responses: Sequence[str] | None = None


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts with a class and an owner each, and the texts of a test set.

    Lists, Series and arrays of texts, and labels and owners of any kind, are checked and converted.
    A text of a prompt and a response has one line for each.

    Attributes:
        name: The name of the set.
        texts: The training texts.
        labels: The class of each ``[n]``; 0 if there are no classes (for language modelling).
        owner: The name of each text's owner ``[n]``.
        test: The test texts: ``HeldOut``, or a pair of texts and labels.
        classes: The names of the classes by number; None to take those of the labels.
        prompts: The prompt of each text ``[n]``, or None.
        responses: The response to each prompt ``[n]``, or None.

    Example:
        >>> test = (["win money"], ["spam"])
        >>> mails = Texts("mails", ["hi ann", "win now"], ["ham", "spam"], ["bob", "eve"], test)
        >>> mails.classes, mails.labels.tolist(), mails.test.labels.tolist()
        (('ham', 'spam'), [0, 1], [1])
    """

    name: str
    texts: Sequence[str]
    labels: np.ndarray
    owner: np.ndarray
    test: HeldOut | tuple[Sequence[str], np.ndarray]
    classes: tuple[str, ...] | None = None
    prompts: Sequence[str] | None = None
    responses: Sequence[str] | None = None

    def __post_init__(self):
        if not isinstance(self.test, HeldOut):
            check_test_pair(self.test)
        train = HeldOut(self.texts, self.labels, self.owner, self.prompts, self.responses)
        train, test = _checked(train, ""), _checked(HeldOut(*self.test), "test ")
        if len(train.texts) == 0:
            raise ValueError(f"{self.name} must have a text to train on. Try a list of texts")
        (labels, test_labels), classes = _text_labels([train.labels, test.labels], self.classes)
        owner = np.full(len(train.texts), "everyone") if train.owner is None else train.owner
        fields = train._replace(labels=labels, owner=owner)._asdict()
        fields |= {"test": test._replace(labels=test_labels), "classes": classes}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def checksum(self) -> str:
        """SHA-256 of all texts and labels, in their order."""
        texts = (*self.texts, *self.test[0])
        labels = (*self.labels.tolist(), *self.test[1].tolist())
        lines = (f"{label}\t{text}" for text, label in zip(texts, labels, strict=True))
        return hashlib.sha256("\0".join(lines).encode()).hexdigest()


def as_texts(values: Any, name: str = "texts") -> list[str]:
    """Return texts as a list of ``str``.

    Args:
        values: List, Series or array of texts.
        name: The argument's name, for errors.

    Raises:
        ValueError: If a text is missing, is a pair of texts, or is no text.

    Example:
        >>> as_texts(np.array(["a", "b"]))
        ['a', 'b']
    """
    is_one = isinstance(values, str | bytes | Mapping)
    if is_one or not isinstance(values, Iterable):
        raise ValueError(
            f"{name} must be a list of texts, and it is a {type(values).__name__}. Try [text]"
        )
    texts = values.tolist() if hasattr(values, "tolist") else list(values)
    for k, text in enumerate(texts):
        if type(text) is not str:
            texts[k] = _plain_text(text, f"{name}[{k}]")
    return texts


def _plain_text(text: Any, place: str) -> str:
    """Return a text of NumPy as ``str``; raise ValueError for other values."""
    if isinstance(text, str):  # np.str_
        return str(text)
    if isinstance(text, tuple | list):
        raise ValueError(
            f"{place} must be one text, and it is a {type(text).__name__} of {len(text)}. "
            "Try ' '.join(pair), or read_texts(frame, prompt=..., response=...)"
        )
    is_na = text is None or type(text).__name__ == "NAType"
    if is_na or text != text:  # NaN differs from itself
        raise ValueError(
            f"{place}={text} must be a text (it is missing). "
            "Try frame.dropna(subset=['text']) before"
        )
    raise ValueError(
        f"{place} must be a text, and it is of type {type(text).__name__}. "
        "Try [str(text) for text in texts]"
    )


def _checked(texts: HeldOut, kind: str) -> HeldOut:
    """Return texts and owners converted, and labels unchanged or 0 if there are none."""
    listed = as_texts(texts.texts, f"{kind}texts")
    labels = np.zeros(len(listed), np.int64) if texts.labels is None else texts.labels
    if len(listed) != len(labels):
        raise ValueError(
            f"{len(listed)} {kind}texts and {len(labels)} labels must be equally many. "
            "Try one label per text"
        )
    pairs = {"prompts": texts.prompts, "responses": texts.responses}
    for name, values in pairs.items():
        if values is not None and len(values) != len(listed):
            raise ValueError(
                f"{len(values)} {kind}{name} and {len(listed)} texts must be equally many. "
                f"Try {name}=None, or one per text"
            )
        pairs[name] = None if values is None else as_texts(values, f"{kind}{name}")
    owner = None if texts.owner is None else to_owners(texts.owner, len(listed))
    return HeldOut(listed, labels, owner, **pairs)


def _text_labels(
    labels: Sequence[Any], classes: Sequence[str] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return the class numbers of training and test texts, and the names of the classes."""
    numeric = all(np.asarray(column).dtype.kind in "iu" for column in labels)
    if classes is None:
        has_no_classes = not any(np.any(np.asarray(column) != 0) for column in labels)
    else:
        has_no_classes = len(classes) == 0
    if numeric and has_no_classes:  # for language modelling
        return [np.array(column, dtype=np.int64) for column in labels], ()
    columns = [column for column in labels if len(column)]
    numbers, classes = to_labels(columns, classes, "labels")
    if not classes:
        raise ValueError(
            "labels must be classes, and they are numbers to predict. "
            "Try labels=None for language modelling"
        )
    converted = iter(numbers)
    empty = np.zeros(0, np.int64)
    return [next(converted).numpy() if len(column) else empty for column in labels], classes
