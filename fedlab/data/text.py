"""Texts by name: documentation that stands on every machine with the requirements, and published sets from the cache."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path

import numpy as np

from fedlab.checks import check_whole
from fedlab.data.cache import folder, locate
from fedlab.data.datasets import hold_out
from fedlab.rng import generator

WORDS = range(12, 81)  # of a paragraph that is taken
AG_NEWS = "World,Sports,Business,Science and technology"

# Where the documentation of a topic stands: folders and files below site-packages, and below Python's own library.
PACKAGES = {
    "statistics": "scipy/stats",
    "signals": "scipy/signal scipy/fft scipy/ndimage",
    "optimisation": "scipy/optimize scipy/integrate",
    "sparse": "scipy/sparse",
    "geometry": "scipy/spatial matplotlib/path.py matplotlib/transforms.py matplotlib/tri",
    "clustering and trees": "sklearn/cluster sklearn/tree sklearn/ensemble sklearn/neighbors",
    "linear models": "sklearn/linear_model sklearn/svm",
    "tables": "pandas/core/frame.py pandas/core/generic.py pandas/core/series.py pandas/core/groupby pandas/core/reshape",
    "plots": "matplotlib/axes matplotlib/axis.py matplotlib/colors.py matplotlib/figure.py matplotlib/legend.py "
    "matplotlib/patches.py matplotlib/pyplot.py matplotlib/text.py matplotlib/ticker.py",
    "neural networks": "torch/nn",
    "notebooks": "ipykernel ipywidgets jupyterlab nbclient nbconvert nbformat papermill voila",
    "language models": "transformers/generation transformers/models/bart transformers/models/bert transformers/models/gpt2 "
    "transformers/models/llama transformers/models/roberta transformers/models/t5 transformers/configuration_utils.py "
    "transformers/modeling_utils.py transformers/tokenization_utils_base.py transformers/training_args.py",
}
LIBRARY = {
    "web and mail": "email ftplib.py html http imaplib.py mailbox.py poplib.py smtplib.py socket.py socketserver.py ssl.py "
    "urllib xmlrpc",
    "processes": "asyncio concurrent multiprocessing queue.py sched.py selectors.py signal.py subprocess.py threading.py",
}


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts with a class each, and who wrote them; ``test`` are texts and classes that no client holds.

    Where there are no classes (a set for language modelling) every label is 0.
    """

    name: str
    texts: Sequence[str]
    labels: np.ndarray  # [n]
    owner: np.ndarray  # [n], names
    test: tuple[Sequence[str], np.ndarray]
    classes: tuple[str, ...] = ()

    @property
    def checksum(self) -> str:
        """SHA-256 of all texts and labels, in their order."""
        every = zip((*self.texts, *self.test[0]), (*self.labels.tolist(), *self.test[1].tolist()), strict=True)
        return hashlib.sha256("\0".join(f"{label}\t{text}" for text, label in every).encode()).hexdigest()


def load_texts(name: str, per_class: int | None = None, owners: int | None = None) -> Texts:
    """A set of texts.  ``per_class`` takes as many of each class, drawn once and for all; ``owners`` the largest so many.

    ``docs``: paragraphs of 12 to 80 words out of the docstrings of the installed packages and of Python's own library, 14
    topics; who owns one is the subpackage it stands in, such as scipy.stats.  It needs no network, and is the same wherever
    the same versions are installed (``data/README.md`` has counts and checksums).  A fifth, stratified, is the test set.

    Out of the download cache come ``banking77`` (customers' questions to a bank, 77 intents; Casanueva et al. 2020),
    ``ag_news`` (the beginnings of 120,000 articles, 4 classes; Zhang et al. 2015) and ``shakespeare`` (speeches out of
    his plays, whose owners are the speakers; no classes, and a fifth of each speaker's is the test set).

    Raises FileNotFoundError, which says what to fetch and how large it is; ValueError for what does not fit.
    """
    if name not in _SOURCES:
        raise ValueError(f"no set of texts {name!r}: there are {', '.join(_SOURCES)}")
    every = _SOURCES[name](folder(name))
    given = {"per_class": per_class, "owners": owners}
    check_whole(1, **{key: value for key, value in given.items() if value is not None})
    if per_class is not None:
        every = _per_class(every, per_class)
    return every if owners is None else _of_the_largest(every, owners)


def _per_class(texts: Texts, each: int) -> Texts:
    """So many of each class, training and test together in the proportion that they have."""
    if not texts.classes:
        raise ValueError(f"per_class={each}: {texts.name} has no classes; take owners=")
    count = np.bincount(texts.labels) + np.bincount(texts.test[1], minlength=len(texts.classes))
    held = round(each * len(texts.test[1]) / (len(texts.test[1]) + len(texts.texts)))
    parts = np.bincount(texts.labels), np.bincount(texts.test[1], minlength=len(texts.classes))
    if any(part.min() < wanted for part, wanted in zip(parts, (each - held, held), strict=True)):
        told = f"{texts.classes[count.argmin()]!r} of {texts.name} has {count.min():,}"
        raise ValueError(f"per_class={each}: {told}; take fewer")
    train, test = (_first(labels, many) for labels, many in ((texts.labels, each - held), (texts.test[1], held)))
    pair = [texts.test[0][i] for i in test], texts.test[1][test]
    name = f"{texts.name}, {each} of each class"
    return Texts(name, [texts.texts[i] for i in train], texts.labels[train], texts.owner[train], pair, texts.classes)


def _first(labels: np.ndarray, each: int) -> np.ndarray:
    """The numbers of ``each`` examples of every class, ascending, always the same: of fewer, those of more."""
    order = generator(0, "texts").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    rank = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return np.sort(order[rank < each])


def _of_the_largest(texts: Texts, owners: int) -> Texts:
    """What those own who own most."""
    names, count = np.unique(texts.owner, return_counts=True)
    if owners > len(names):
        raise ValueError(f"owners={owners}: {texts.name} has {len(names)}; take as many at most")
    mine = np.flatnonzero(np.isin(texts.owner, names[np.argsort(-count, kind="stable")[:owners]]))
    name = f"{texts.name}, {owners} owners"
    return Texts(name, [texts.texts[i] for i in mine], texts.labels[mine], texts.owner[mine], texts.test, texts.classes)


@cache
def _docs(_: Path) -> Texts:
    site, library = Path(find_spec("torch").origin).parents[1], Path(sysconfig.get_path("stdlib"))
    topics = [(topic, site, places) for topic, places in PACKAGES.items()]
    topics += [(topic, library, places) for topic, places in LIBRARY.items()]
    topics.sort()
    seen: set[str] = set()
    rows = [
        (text, label, owner)
        for label, (_, root, places) in enumerate(topics)
        for text, owner in _paragraphs(root, places.split())
        if not (text.lower() in seen or seen.add(text.lower()))
    ]
    texts, labels, owner = zip(*rows, strict=True)
    return _divided("docs", texts, np.array(labels), np.array(owner), tuple(topic for topic, *_ in topics))


def _divided(name: str, texts: Sequence[str], labels: np.ndarray, owner: np.ndarray, classes: tuple[str, ...]) -> Texts:
    """A fifth of each class, or of each owner where there are no classes, is the test set."""
    groups = labels if classes else np.unique(owner, return_inverse=True)[1]
    held = hold_out(groups, 0.2).numpy()
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    pair = [texts[i] for i in test], labels[test]
    return Texts(name, [texts[i] for i in train], labels[train], owner[train], pair, classes)


def _paragraphs(root: Path, places: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Paragraphs of the docstrings of the Python files there, and the first two names of the module they stand in."""
    for place in places:
        files = sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place]
        for path in files:
            parts = path.relative_to(root).with_suffix("").parts
            if "tests" in parts:
                continue
            for text in map(prose, _docstrings(path.read_text("utf-8"))):
                yield from ((one, ".".join(parts[:2])) for one in text)


def _docstrings(source: str) -> Iterator[str]:
    """Strings in three quotes that begin a line: parsing the files would take ten times as long."""
    pieces = source.split('"""')
    for before, text in zip(pieces[::2], pieces[1::2], strict=False):
        if before.rpartition("\n")[2].strip() in ("", "r", "u"):
            yield cleandoc(text)


def prose(docstring: str) -> list[str]:
    """The paragraphs of a docstring that are sentences: no code, no lists of parameters, no tables; without markup."""
    found = []
    for block in re.split(r"\n\s*\n", docstring):
        lines = [line for line in block.splitlines() if not re.match(r"\s*[\w*, ]+ : ", line)]  # `name : type`
        text = " ".join(" ".join(lines).split())
        if re.search(r">>>|\.\. |::|[-=~^]{4}|[|{}]|\\\w", text):
            continue
        text = re.sub(r":[\w:]+:`~?([^`<]*?)(?: <[^`>]*>)?`", r"\1", text)  # :class:`Name`
        text = re.sub(r"`+|\*\*|_\b(?= )", "", text).strip()
        words = text.split()
        plain = sum(word.strip(".,;:()'\"*").isalpha() for word in words)
        if len(words) in WORDS and plain > 0.7 * len(words) and text[0].isalpha():
            found.append(text)
    return found


@cache
def _banking77(_: Path) -> Texts:
    train, test = (_rows("banking77", file)[1:] for file in ("train.csv", "test.csv"))
    classes = sorted({row[1] for row in train})
    number = {name: i for i, name in enumerate(classes)}
    texts, labels, test_texts, test_labels = (
        column for rows in (train, test) for column in ([row[0].strip() for row in rows], [number[row[1]] for row in rows])
    )
    nobody = np.full(len(texts), "the bank")
    named = tuple(name.replace("_", " ") for name in classes)
    return Texts("banking77", texts, np.array(labels), nobody, (test_texts, np.array(test_labels)), named)


@cache
def _ag_news(_: Path) -> Texts:
    texts, labels, test_texts, test_labels = (
        column
        for file in ("train.csv", "test.csv")
        for rows in [_rows("ag_news", file)]
        for column in ([" ".join(row[1:]).replace("\\", " ") for row in rows], [int(row[0]) - 1 for row in rows])
    )
    nobody = np.full(len(texts), "the agency")
    return Texts("ag_news", texts, np.array(labels), nobody, (test_texts, np.array(test_labels)), tuple(AG_NEWS.split(",")))


def _rows(name: str, file: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(locate(name, file).read_text("utf-8"), newline="")))


@cache
def _shakespeare(_: Path) -> Texts:
    speeches = re.findall(r"([^\n]+):\n((?:[^\n]+\n?)+)", locate("shakespeare", "input.txt").read_text("utf-8"))
    owner, texts = zip(*speeches, strict=True)
    return _divided(
        "shakespeare", [" ".join(text.split()) for text in texts], np.zeros(len(texts), int), np.array(owner), ()
    )


_SOURCES = {"docs": _docs, "banking77": _banking77, "ag_news": _ag_news, "shakespeare": _shakespeare}
