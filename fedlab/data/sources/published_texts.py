"""Published sets of texts in the download cache."""

from __future__ import annotations

import csv
import io
import re
from functools import cache
from pathlib import Path

import numpy as np

from fedlab.data.cache import folder, locate
from fedlab.data.text import Texts
from fedlab.data.text_subsets import with_test_set

AG_NEWS = "World,Sports,Business,Science and technology"


def banking77() -> Texts:
    """Return customers' questions to a bank, with 77 intents (Casanueva et al. 2020)."""
    return _banking77(folder("banking77"))


def ag_news() -> Texts:
    """Return the beginnings of 127,600 news articles in 4 classes (Zhang et al. 2015)."""
    return _ag_news(folder("ag_news"))


def shakespeare() -> Texts:
    """Return the speeches of Shakespeare's plays, owned by their speakers, without classes."""
    return _shakespeare(folder("shakespeare"))


@cache
def _banking77(_: Path) -> Texts:
    train, test = (_rows("banking77", file)[1:] for file in ("train.csv", "test.csv"))
    classes = sorted({row[1] for row in train})
    number = {name: i for i, name in enumerate(classes)}
    (texts, labels), (test_texts, test_labels) = (
        ([row[0].strip() for row in rows], np.array([number[row[1]] for row in rows]))
        for rows in (train, test)
    )
    owner = np.full(len(texts), "the bank")
    names = tuple(name.replace("_", " ") for name in classes)
    return Texts("banking77", texts, labels, owner, (test_texts, test_labels), names)


@cache
def _ag_news(_: Path) -> Texts:
    (texts, labels), test = map(_articles, ("train.csv", "test.csv"))
    owner = np.full(len(texts), "the agency")
    return Texts("ag_news", texts, labels, owner, test, tuple(AG_NEWS.split(",")))


def _articles(file: str) -> tuple[list[str], np.ndarray]:
    """Return the title and first sentences of each article, and its class."""
    rows = _rows("ag_news", file)
    texts = [" ".join(row[1:]).replace("\\", " ") for row in rows]
    return texts, np.array([int(row[0]) - 1 for row in rows])


def _rows(name: str, file: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(locate(name, file).read_text("utf-8"), newline="")))


@cache
def _shakespeare(_: Path) -> Texts:
    play = locate("shakespeare", "input.txt").read_text("utf-8")
    speeches = re.findall(r"([^\n]+):\n((?:[^\n]+\n?)+)", play)
    owner, texts = zip(*speeches, strict=True)
    texts = [" ".join(text.split()) for text in texts]
    return with_test_set("shakespeare", texts, np.zeros(len(texts), int), np.array(owner), ())
