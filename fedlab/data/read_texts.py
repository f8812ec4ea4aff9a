"""Your own texts, out of a file or a frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from fedlab.data.convert import to_labels, to_owners
from fedlab.data.holdout import hold_out_each
from fedlab.data.text import HeldOut, Texts
from fedlab.data.text_tables import as_numbers, joined_texts, read_columns


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

    A row holds one text, or a prompt and its response. Each owner's texts are divided separately,
    stratified by label if there are labels, so that each client has its own share of the test set.
    An owner of one text trains on it. A log line counts the texts that are in both sets. Labels
    and owners lose the spaces around them. Labels are class numbers if all are whole numbers
    without leading zeros; otherwise they are names, of which categories keep their order.

    Args:
        source: Path of a ``.csv``, ``.tsv``, ``.jsonl`` or ``.json`` file in UTF-8, a DataFrame, or
            a list of dicts.
        text: The column of texts; not read if there is a ``prompt``.
        prompt: The column of prompts, for instruction tuning.
        response: The column of responses to the prompts.
        label: The column of classes, by name or number; None for language modelling.
        owner: The column that names each text's owner; None for one owner of all.
        test: The share of each owner's texts that is held out, or another ``source`` with the same
            columns.
        classes: The names of the classes by number, or the order of named ones.
        name: The name of the texts; by default the file's.

    Returns:
        The texts. They and their ``test`` have ``prompts`` and ``responses`` if these were read,
        and ``test`` has an ``owner``, too.

    Raises:
        ValueError: If a column, a text, a label or an owner is missing; the message names row,
            column and remedy.
        FileNotFoundError: If there is no such file.

    Example:
        >>> mails = [
        ...     {"text": f"Mail {k}", "label": "spam" if k % 2 else "ham", "owner": "ann"}
        ...     for k in range(10)
        ... ]
        >>> texts = read_texts(mails, label="label", owner="owner")
        >>> len(texts.texts), len(texts.test[0]), texts.classes
        (8, 2, ('ham', 'spam'))
    """
    if (prompt is None) != (response is None):
        raise ValueError(
            f"prompt={prompt!r} and response={response!r} must both be columns, or both None. "
            "Try prompt='prompt', response='response'"
        )
    columns = {"text": text} if prompt is None else {"prompt": prompt, "response": response}
    optional = {"label": label, "owner": owner}
    columns |= {role: column for role, column in optional.items() if column is not None}
    table = read_columns(source, columns)
    name = name or (Path(source).stem if isinstance(source, str | Path) else "texts")
    if isinstance(test, Real):
        tables = _hold_out(table, test)
    else:
        tables = [table, read_columns(test, columns)]
    labels, names = _to_class_numbers(tables, label, classes)
    texts = [joined_texts(part) for part in tables]
    _warn_of_repeats(*texts, name, text if prompt is None else prompt)
    fields = []
    for k, part in enumerate(tables):
        pair = () if prompt is None else (part["prompt"].tolist(), part["response"].tolist())
        owners = None if owner is None else to_owners(part["owner"], len(part))
        fields.append((texts[k], labels[k], owners, *pair))
    written, numbers, owners, *pair = fields[0]
    return Texts(name, written, numbers, owners, HeldOut(*fields[1]), names, *pair)


def _hold_out(table: Any, share: float) -> list[Any]:
    """Divide a table into training and test rows: a share of each owner's rows, by label."""
    owners = to_owners(table["owner"], len(table)) if "owner" in table else np.zeros(len(table))
    if len(table) == 1:
        raise ValueError(
            f"test={share!r} must be other texts (there is one text, which trains). "
            "Try test=other_frame, with the same columns"
        )
    if "owner" in table and len(np.unique(owners)) == len(table):
        raise ValueError(
            f"test={share!r} must be other texts (every owner has one text, which trains). "
            "Try owner=None, or test=other_frame with the same columns"
        )
    labels = table["label"].astype(str).to_numpy() if "label" in table else None
    mask = hold_out_each(owners, labels, share)
    return [table[~mask], table[mask]]


def _to_class_numbers(
    tables: Sequence[Any], label: str | None, classes: Sequence[str] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return the class numbers of each table, 0 if there are no labels, and the class names."""
    if label is None:
        return [np.zeros(len(table), np.int64) for table in tables], ()
    columns = as_numbers([table["label"] for table in tables])
    numbers, names = to_labels(columns, classes, f"frame[{label!r}]")
    if not names:
        raise ValueError(
            f"column {label!r} must hold classes, and it holds numbers to predict. Try label=None"
        )
    return [column.numpy() for column in numbers], names


def _warn_of_repeats(train: list[str], test: list[str], name: str, column: Any) -> None:
    """Log the number of test texts that are also training texts."""
    repeated = len(set(train).intersection(test))
    if repeated:
        logging.getLogger(__name__).warning(
            f"{name}: {repeated:,} of {len(set(test)):,} test texts are training texts, too. "
            f"Try frame.drop_duplicates({column!r})"
        )
