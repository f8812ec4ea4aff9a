"""Texts by name, and your own: documentation that comes with the requirements, published sets, tables of texts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
import sysconfig
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedlab.core import generator
from fedlab.core.validate import check_test_pair, check_whole
from fedlab.data.cache import folder, locate
from fedlab.data.convert import to_labels, to_owners
from fedlab.data.datasets import hold_out, hold_out_each

WORDS = range(12, 81)  # of a paragraph that is taken
OTHER_SEPARATORS = r"[;\t|]"  # than commas, of the cells of a file
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


class HeldOut(NamedTuple):
    """The texts that no client holds, with a class each, and the names of those whose they are, if anybody's."""

    texts: Sequence[str]
    labels: np.ndarray  # [n]
    owner: np.ndarray | None = None  # [n], names
    prompts: Sequence[str] | None = None  # [n]
    responses: Sequence[str] | None = None  # [n]


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts with a class each, and who wrote them; ``test`` are those that no client holds: at least texts and classes.

    Lists, Series and arrays of texts, and labels and owners of any kind, are checked and converted.  Where there are no
    classes (a set for language modelling) every label is 0; ``classes=None`` finds the classes of the labels.  A text that
    is made of a prompt and a response has each of them on a line.
    """

    name: str
    texts: Sequence[str]
    labels: np.ndarray  # [n]
    owner: np.ndarray  # [n], names
    test: HeldOut | tuple[Sequence[str], np.ndarray]
    classes: tuple[str, ...] | None = None
    prompts: Sequence[str] | None = None  # [n]
    responses: Sequence[str] | None = None  # [n]

    def __post_init__(self):
        if not isinstance(self.test, HeldOut):
            check_test_pair(self.test)
        train, test = (
            HeldOut(self.texts, self.labels, self.owner, self.prompts, self.responses),
            HeldOut(*self.test),
        )
        train, test = _checked(train, ""), _checked(test, "test ")
        if len(train.texts) == 0:
            raise ValueError(f"{self.name}: there is no text to train on. Try a list of texts")
        (labels, test_labels), classes = _text_labels([train.labels, test.labels], self.classes)
        owner = np.full(len(train.texts), "everyone") if train.owner is None else train.owner
        fields = train._replace(labels=labels, owner=owner)._asdict()
        for name, value in (
            fields | {"test": test._replace(labels=test_labels), "classes": classes}
        ).items():
            object.__setattr__(self, name, value)

    @property
    def checksum(self) -> str:
        """SHA-256 of all texts and labels, in their order."""
        every = zip(
            (*self.texts, *self.test[0]),
            (*self.labels.tolist(), *self.test[1].tolist()),
            strict=True,
        )
        return hashlib.sha256(
            "\0".join(f"{label}\t{text}" for text, label in every).encode()
        ).hexdigest()


def read_texts(
    source: Any,
    text: str | None = "text",
    *,
    prompt: str | None = None,
    response: str | None = None,
    label: str | None = None,
    owner: str | None = None,
    test: Any = 0.2,
    classes: Sequence[str] | None = None,
    name: str = "",
) -> Texts:
    """Read your own texts from a CSV file, a JSON Lines file or a frame, and check them.

    A row holds one text, or a prompt and its response.  Every owner's texts are divided by themselves, stratified by
    label where there are labels, so that each client has its own share of the test set; an owner of one text trains on
    it.  A text that stands in both sets is told in a log line.  Labels and owners lose the spaces around them; labels
    are class numbers where all are whole numbers without leading zeros, else names, of which categories keep their order.

    Args:
        source: Path of a ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` file in UTF-8, a DataFrame, or a list of dicts.
        text: The column of texts; not read where there is a ``prompt``.
        prompt: The column of prompts, for instruction tuning.
        response: The column of responses to the prompts.
        label: The column of classes, by name or number; None for language modelling.
        owner: The column that names each text's writer; None for one owner of all.
        test: The share of each owner's texts that is held out, or another ``source`` with the same columns.
        classes: The names of the classes by number, or the order of named ones.
        name: The name of the texts; by default the file's.

    Returns:
        The texts; with ``prompts`` and ``responses``, where there are any, and so has ``test``, which also has ``owner``.

    Raises:
        ValueError: If a column, a text, a label or an owner is missing; the line names row, column and remedy.
        FileNotFoundError: If there is no such file.

    Example:
        >>> mails = [{"text": f"Mail {k}", "label": "spam" if k % 2 else "ham", "owner": "ann"} for k in range(10)]
        >>> texts = read_texts(mails, label="label", owner="owner")
        >>> len(texts.texts), len(texts.test[0]), texts.classes
        (8, 2, ('ham', 'spam'))
    """
    if (prompt is None) != (response is None):
        told = f"prompt={prompt!r}, response={response!r}: they are columns that go together"
        raise ValueError(f"{told}. Try prompt='prompt', response='response'")
    columns = {"text": text} if prompt is None else {"prompt": prompt, "response": response}
    columns |= {
        key: value for key, value in {"label": label, "owner": owner}.items() if value is not None
    }
    table = _table(source, columns)
    name = name or (Path(source).stem if isinstance(source, str | Path) else "texts")
    if not isinstance(test, Real):
        tables = [table, _table(test, columns)]
    else:
        owners = np.zeros(len(table)) if owner is None else to_owners(table["owner"], len(table))
        if len(table) == 1:
            told = f"test={test!r} holds out a share, and there is one text, which trains"
            raise ValueError(f"{told}. Try test=other_frame, with the same columns")
        if owner is not None and len(np.unique(owners)) == len(table):
            told = f"test={test!r} holds out a share of each owner's texts, and every owner has one, which trains"
            raise ValueError(f"{told}. Try owner=None, or test=other_frame with the same columns")
        held = hold_out_each(
            owners, None if label is None else table["label"].astype(str).to_numpy(), test
        )
        tables = [table[~held], table[held]]
    written = [_written(each) for each in tables]
    pairs = [
        () if prompt is None else (each["prompt"].tolist(), each["response"].tolist())
        for each in tables
    ]
    labels = [np.zeros(len(each), np.int64) for each in tables]
    names: tuple[str, ...] = ()
    if label is not None:
        numbers, names = to_labels(
            _typed([each["label"] for each in tables]), classes, f"frame[{label!r}]"
        )
        if not names:
            raise ValueError(
                f"column {label!r} holds numbers to predict, and texts take classes. Try label=None"
            )
        labels = [column.numpy() for column in numbers]
    both = len(set(written[0]).intersection(written[1]))
    if both:
        told = f"{name}: {both:,} of {len(set(written[1])):,} test texts stand among the training texts, too"
        logging.getLogger(__name__).warning(
            f"{told}. Try frame.drop_duplicates({text if prompt is None else prompt!r})"
        )
    owners = [None if owner is None else to_owners(each["owner"], len(each)) for each in tables]
    return Texts(
        name,
        written[0],
        labels[0],
        owners[0],
        HeldOut(written[1], labels[1], owners[1], *pairs[1]),
        names,
        *pairs[0],
    )


def _table(source: Any, columns: Mapping[str, str]) -> Any:
    """Return the named columns of a source as a frame, under their roles; ValueError for absent or empty cells."""
    import pandas as pd

    place = str(source) if isinstance(source, str | Path) else "the table"
    if isinstance(source, str | Path):
        frame = _frame(Path(source))
    else:
        frame = source if isinstance(source, pd.DataFrame) else _rows_of(source)
    for role, column in columns.items():
        if not isinstance(column, Hashable):
            raise ValueError(
                f"{role}={column!r} must be the name of one column. Try {role}={[*column, role][0]!r}"
            )
        if column not in frame.columns:
            close = get_close_matches(str(column), [str(each) for each in frame.columns], n=1)
            hint = f" Did you mean {role}={close[0]!r}?" if close else ""
            raise ValueError(
                f"{place} has no column {column!r} for {role}=: there are {list(frame.columns)}.{hint}"
            )
        if not isinstance(frame[column], pd.Series):
            raise ValueError(
                f"{place} has {frame[column].shape[1]} columns {column!r}: each has a name of its own"
            )
    table = pd.DataFrame(
        {role: frame[column].to_numpy(dtype=object) for role, column in columns.items()}
    )
    if len(table) == 0:
        raise ValueError(f"{place} has no row: there is no text to read")
    for role, column in columns.items():
        empty = table[role].isna() if role in ("label", "owner") else ~table[role].map(_is_text)
        empty |= table[role].map(lambda cell: isinstance(cell, str) and not cell.strip())
        if empty.any():
            row = int(np.flatnonzero(empty)[0])
            told = (
                f"row {row} of {place} has no {role} in column {column!r}, but {table[role][row]!r}"
            )
            told = f"{told} ({empty.sum()} of {len(table)} have none)"
            raise ValueError(f"{told}. Try {_instead(table[role][row], f'frame[{column!r}]')}")
    for role in table.columns.intersection(["label", "owner"]):
        table[role] = [cell.strip() if isinstance(cell, str) else cell for cell in table[role]]
    if "label" in columns and isinstance(frame[columns["label"]].dtype, pd.CategoricalDtype):
        table["label"] = frame[columns["label"]].array  # in the order of its categories
    return table


def _instead(cell: Any, column: str) -> str:
    """Return what makes a text of a cell that is none, or leaves its row out."""
    import pandas as pd

    if isinstance(cell, str):
        return f"frame[{column}.str.strip() != ''], or to fill it"
    if not isinstance(cell, tuple | list | np.ndarray):
        return (
            f"frame[{column}.notna()], or to fill it" if pd.isna(cell) else f"{column}.astype(str)"
        )
    if len(cell):
        if all(isinstance(turn, Mapping) and turn for turn in cell):  # a conversation
            key = "content" if "content" in cell[-1] else list(cell[-1])[-1]
            prompt, response = (
                f"{column}.map(lambda turns: turns[{k}][{key!r}])" for k in (-2, -1)
            )
            columns = f"prompt={prompt}, response={response}"
            return f"read_texts(frame.assign({columns}), prompt='prompt', response='response')"
        if all(map(_is_text, cell)):
            return f"{column}.map(' '.join)"
    return f"{column}.astype(str)"


def _rows_of(source: Any) -> Any:
    """Return a list of dicts, or a dict of columns, as a frame."""
    import pandas as pd

    if isinstance(source, Mapping):
        return pd.DataFrame(source)
    if isinstance(source, pd.Series):
        raise ValueError(
            "the table is a Series: it must have named columns. Try series.to_frame('text')"
        )
    if source is None or isinstance(source, Real) or not isinstance(source, Iterable):
        raise ValueError(
            f"the table is a {type(source).__name__}: it must be a path, a DataFrame or a list of dicts"
        )
    rows = list(source)
    if not all(isinstance(row, Mapping) for row in rows):
        told = f"the table is a list of {type(rows[0]).__name__}: it must be one of dicts"
        raise ValueError(f"{told}. Try [{{'text': text}} for text in texts]")
    return pd.DataFrame(rows)


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


def _frame(path: Path) -> Any:
    """Return a file as a frame of texts, in which only an empty cell is missing."""
    import pandas as pd

    suffix = path.suffix.lower()
    if path.is_dir():
        raise ValueError(f"{path} is a folder: it must be a file of texts. Try one of its files")
    if suffix not in (".csv", ".tsv", ".jsonl", ".json"):
        raise ValueError(
            f"{path}: a file of texts ends in .csv, .tsv, .jsonl or .json. Try a DataFrame of its rows"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; a relative path begins at {Path.cwd()}")
    content = _content(path, suffix)
    if suffix in (".csv", ".tsv"):
        separator = "\t" if suffix == ".tsv" else ","
        header = content.partition("\n")[0]
        if separator in header or not re.search(OTHER_SEPARATORS, header):
            _check_quotes(path, content, separator)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "error", pd.errors.ParserWarning
                )  # of rows that are longer than the header
                frame = pd.read_csv(
                    io.StringIO(content),
                    sep=separator,
                    dtype=str,
                    keep_default_na=False,
                    na_values=[""],
                    index_col=False,
                )
        except pd.errors.ParserWarning as error:
            told = f"{path} has rows with more cells than its header names"
            raise ValueError(
                f"{told}. Try double quotes around texts with {separator!r} in them"
            ) from error
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise ValueError(
                f"{path} is no table: {str(error).strip()}. Try pd.read_csv(path, sep=...)"
            ) from error
        if frame.shape[1] == 1 and (other := re.search(OTHER_SEPARATORS, str(frame.columns[0]))):
            told = (
                f"{path} has one column {frame.columns[0]!r}: its cells are divided by {other[0]!r}"
            )
            raise ValueError(
                f"{told}. Try pd.read_csv(path, sep={other[0]!r}), whose frame goes as well"
            )
        return frame
    lines = [content] if suffix == ".json" else content.split("\n")
    rows = []
    for k, line in enumerate(lines, 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            told = f"{path} is no JSON in line {k}: {error.msg}"
            raise ValueError(
                f"{told}. Try one object per line in a .jsonl file, or one list of them in .json"
            ) from error
    rows = rows[0] if suffix == ".json" and rows else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f'{path} does not hold objects with named fields. Try rows such as {{"text": "..."}}'
        )
    return pd.DataFrame(rows)


def _check_quotes(path: Path, content: str, separator: str) -> None:
    """Raise ValueError for a double quote that is a letter of a text, where it would join rows or be lost.

    Its cell ends elsewhere, or goes on over lines each of which is a row by itself, as all lines of the file are.
    """
    cell = re.compile(rf'(?:"([^"]*(?:""[^"]*)*)" *|(?!")[^{separator}\n]*)(?:{separator}|\n|\Z)')
    are_rows = len({line.count(separator) for line in content.split("\n") if line}) == 1
    place = 0 if '"' in content else len(content)
    while place < len(content):
        found = cell.match(content, place)
        text = (found and found[1]) or ""
        if not found or (are_rows and "\n" in text and re.search(rf"{separator}\S", text)):
            line = content.count("\n", 0, place) + 1
            told = f"{path} has a cell in line {line} that begins with a double quote and does not end with one in that line"
            reader = f"pd.read_csv(path, {'' if separator == ',' else 'sep=' + repr(separator) + ', '}quoting=3)"
            raise ValueError(
                f"{told}. Try {reader}, which takes quotes as letters and whose frame goes as well"
            )
        place = found.end()


def _content(path: Path, suffix: str) -> str:
    """Return a file's text; ValueError for another encoding than UTF-8, with the one that it seems to have."""
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
        if "\0" not in content:
            return io.StringIO(content, newline=None).read()
        why, encoding = (
            "it has zero bytes",
            "utf-16-le" if raw[1::2].count(0) > raw[::2].count(0) else "utf-16-be",
        )
    except UnicodeDecodeError as error:
        why, encoding = f"byte {error.start:,} is {raw[error.start]:#x}", "latin-1"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    reader = {".csv": "read_csv", ".tsv": "read_csv"}.get(suffix, "read_json")
    more = {".tsv": ", sep='\\t'", ".jsonl": ", lines=True"}.get(suffix, "")
    remedy = f"Try pd.{reader}(path, encoding={encoding!r}{more}), whose frame goes as well"
    raise ValueError(f"{path} is not in UTF-8 ({why}). {remedy}")


def _typed(columns: Sequence[Any]) -> list[Any]:
    """Return labels that are whole numbers in writing, as in a CSV file, as numbers; others, such as 007, as they are."""
    if any(hasattr(labels, "cat") for labels in columns):
        return list(columns)
    cells = (cell for labels in columns for cell in labels)
    if all(isinstance(cell, str) and re.fullmatch(r"0|[1-9]\d{0,8}", cell) for cell in cells):
        return [labels.map(int).to_numpy(dtype=np.int64) for labels in columns]
    return [labels.to_numpy(dtype=object) for labels in columns]


def _written(table: Any) -> list[str]:
    """Return each row's text: the prompt and, on a line of its own, the response."""
    if "text" in table:
        return table["text"].tolist()
    return [
        f"{first}\n{second}"
        for first, second in zip(table["prompt"], table["response"], strict=True)
    ]


def as_texts(values: Any, name: str = "texts") -> list[str]:
    """Return texts as a list; ValueError for a missing text, a pair of texts, or what is no text."""
    if (
        isinstance(values, str | bytes)
        or not isinstance(values, Iterable)
        or isinstance(values, Mapping)
    ):
        raise ValueError(
            f"{name} is a {type(values).__name__}: it must be a list of texts. Try [text]"
        )
    texts = values.tolist() if hasattr(values, "tolist") else list(values)
    for k, text in enumerate(texts):
        if type(text) is str:
            continue
        if isinstance(text, str):  # np.str_
            texts[k] = str(text)
        elif isinstance(text, tuple | list):
            told = f"{name}[{k}] is a {type(text).__name__} of {len(text)}: models here read one text per example"
            raise ValueError(
                f"{told}. Try ' '.join(pair), or read_texts(frame, prompt=..., response=...)"
            )
        elif (
            text is None or text != text or type(text).__name__ == "NAType"
        ):  # NaN differs from itself
            raise ValueError(
                f"{name}[{k}] is missing ({text}). Try frame.dropna(subset=['text']) before"
            )
        else:
            raise ValueError(
                f"{name}[{k}] is a {type(text).__name__}: it must be a text. Try [str(text) for text in texts]"
            )
    return texts


def _checked(held: HeldOut, what: str) -> HeldOut:
    """Return texts and whose they are, checked and converted; labels as they are, 0 where there are none."""
    texts = as_texts(held.texts, f"{what}texts")
    labels = np.zeros(len(texts), np.int64) if held.labels is None else held.labels
    if len(texts) != len(labels):
        raise ValueError(
            f"{len(texts)} {what}texts and {len(labels)} labels: there must be one label per text"
        )
    pairs = {"prompts": held.prompts, "responses": held.responses}
    for name, values in pairs.items():
        if values is not None and len(pairs[name]) != len(texts):
            raise ValueError(
                f"{len(values)} {what}{name} and {len(texts)} texts: there must be one per text"
            )
        pairs[name] = None if values is None else as_texts(values, f"{what}{name}")
    return HeldOut(
        texts, labels, None if held.owner is None else to_owners(held.owner, len(texts)), **pairs
    )


def _text_labels(
    labels: Sequence[Any], classes: Sequence[str] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return the labels of training and test texts as class numbers, and the names of the classes."""
    numeric = all(np.asarray(column).dtype.kind in "iu" for column in labels)
    silent = classes is None and not any(np.any(np.asarray(column) != 0) for column in labels)
    if numeric and (
        silent or (classes is not None and len(classes) == 0)
    ):  # for language modelling
        return [np.array(column, dtype=np.int64) for column in labels], ()
    columns = [column for column in labels if len(column)]
    numbers, classes = to_labels(columns, classes, "labels")
    if not classes:
        raise ValueError(
            "labels are numbers to predict, and texts take classes. Try labels=None for language modelling"
        )
    found = iter(numbers)
    return [
        next(found).numpy() if len(column) else np.zeros(0, np.int64) for column in labels
    ], classes


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
    train, test = (
        _first(labels, many)
        for labels, many in ((texts.labels, each - held), (texts.test[1], held))
    )
    whose = None if texts.test.owner is None else texts.test.owner[test]
    return replace(
        texts,
        name=f"{texts.name}, {each} of each class",
        texts=[texts.texts[i] for i in train],
        labels=texts.labels[train],
        owner=texts.owner[train],
        test=HeldOut([texts.test.texts[i] for i in test], texts.test.labels[test], whose),
    )


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
    name, kept = f"{texts.name}, {owners} owners", [texts.texts[i] for i in mine]
    return replace(texts, name=name, texts=kept, labels=texts.labels[mine], owner=texts.owner[mine])


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
    return _divided(
        "docs", texts, np.array(labels), np.array(owner), tuple(topic for topic, *_ in topics)
    )


def _divided(
    name: str, texts: Sequence[str], labels: np.ndarray, owner: np.ndarray, classes: tuple[str, ...]
) -> Texts:
    """A fifth of each class, or of each owner where there are no classes, is the test set."""
    groups = labels if classes else np.unique(owner, return_inverse=True)[1]
    held = hold_out(groups, 0.2).numpy()
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    apart = HeldOut([texts[i] for i in test], labels[test], owner[test])
    return Texts(name, [texts[i] for i in train], labels[train], owner[train], apart, classes)


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
        lines = [
            line for line in block.splitlines() if not re.match(r"\s*[\w*, ]+ : ", line)
        ]  # `name : type`
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
        column
        for rows in (train, test)
        for column in ([row[0].strip() for row in rows], [number[row[1]] for row in rows])
    )
    nobody = np.full(len(texts), "the bank")
    named = tuple(name.replace("_", " ") for name in classes)
    return Texts(
        "banking77", texts, np.array(labels), nobody, (test_texts, np.array(test_labels)), named
    )


@cache
def _ag_news(_: Path) -> Texts:
    texts, labels, test_texts, test_labels = (
        column
        for file in ("train.csv", "test.csv")
        for rows in [_rows("ag_news", file)]
        for column in (
            [" ".join(row[1:]).replace("\\", " ") for row in rows],
            [int(row[0]) - 1 for row in rows],
        )
    )
    nobody = np.full(len(texts), "the agency")
    return Texts(
        "ag_news",
        texts,
        np.array(labels),
        nobody,
        (test_texts, np.array(test_labels)),
        tuple(AG_NEWS.split(",")),
    )


def _rows(name: str, file: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(locate(name, file).read_text("utf-8"), newline="")))


@cache
def _shakespeare(_: Path) -> Texts:
    speeches = re.findall(
        r"([^\n]+):\n((?:[^\n]+\n?)+)", locate("shakespeare", "input.txt").read_text("utf-8")
    )
    owner, texts = zip(*speeches, strict=True)
    return _divided(
        "shakespeare",
        [" ".join(text.split()) for text in texts],
        np.zeros(len(texts), int),
        np.array(owner),
        (),
    )


_SOURCES = {
    "docs": _docs,
    "banking77": _banking77,
    "ag_news": _ag_news,
    "shakespeare": _shakespeare,
}
