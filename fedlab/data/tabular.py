"""Tables of mixed columns as examples: how categories, missing values and scales are treated is a choice of the study.

Everything is fitted on training rows only, from sums that each client can make of its own rows: counts, means and squared
deviations of numbers, counts of the levels of a category.  Put together they are those of the pooled rows, to rounding.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlab.core import FederatedDataset
from fedlab.core.validate import check_whole
from fedlab.data.convert import is_missing_mark, to_labels, to_owners
from fedlab.data.datasets import Arrays, checked, hold_out, hold_out_each, who_holds
from fedlab.data.partition import Split

if TYPE_CHECKING:
    import pandas as pd

EXACT = 2**53  # up to which float64 has every whole number
MANY_LEVELS = 50  # of a column of texts that may be the names of rows
CHOICES = {
    "categories": ("onehot", "dummies", "codes"),
    "missing": ("federated", "own", "refuse"),
    "scale": ("federated", "own", "none"),
}


class Moments(NamedTuple):
    """What is known of numbers: how many there are, their mean, their summed squared deviations from it."""

    count: np.ndarray  # [..., columns]
    mean: np.ndarray
    squares: np.ndarray

    @property
    def deviation(self) -> np.ndarray:
        """The standard deviation over all values (divided by their number), 1 where they do not differ."""
        deviation = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(deviation > 0, deviation, 1.0)


@dataclass(frozen=True, eq=False)
class Encoding:
    """How rows of a table become features, with the statistics that were fitted on the training rows of its clients.

    ``transform`` encodes other rows; ``with_client`` adds a client that never trained, by its own rows.
    """

    order: tuple[str, ...]  # the table's columns
    levels: Mapping[str, tuple]  # of each categorical column
    categories: str
    missing: str
    scale: str
    flagged: tuple[str, ...]  # columns with a feature that says where they were missing
    min_values: int
    clients: Mapping[Any, int]  # the number of each owner's client
    own: Moments = field(repr=False)  # [N, numbers]
    counts: Mapping[str, np.ndarray] = field(repr=False)  # [N, levels] of each categorical column

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns of numbers."""
        return tuple(column for column in self.order if column not in self.levels)

    @property
    def columns(self) -> tuple[str, ...]:
        """The name of each feature, ``[d]``."""
        names = []
        for column in self.order:
            names += (
                [str(column)]
                if self._is_one(column)
                else [f"{column}={level}" for level in self._shown(column)]
            )
        return (*names, *(f"{column} missing" for column in self.flagged))

    @property
    def federated(self) -> Moments:
        """The moments of all training rows together, ``[numbers]``, from those of the clients."""
        return pooled(self.own)

    def transform(self, frame: pd.DataFrame, owner: Any = None) -> Tensor:
        """Encode the rows of a table that has the columns of the first one.

        Args:
            frame: The rows; other columns than those of the encoding are left out.
            owner: Whose each row is: a column's name or one name per row.  None takes federated statistics only.

        Returns:
            Features ``[n, d]`` of float32.

        Raises:
            ValueError: If a column is missing, or an owner is unknown whose own statistics are needed.
        """
        if owner is None:
            return self._features(frame, np.full(len(frame), -1))
        names = to_owners(_named(frame, owner), len(frame)).tolist()
        unknown = next((name for name in names if name not in self.clients), None)
        if unknown is not None and "own" in (self.missing, self.scale):
            told = (
                f"owner {unknown!r} is none of the {len(self.clients)} whose statistics are known"
            )
            raise ValueError(
                f"{told}. Try encoding.with_client({unknown!r}, rows), or owner=None for federated ones"
            )
        return self._features(
            frame, np.array([self.clients.get(name, -1) for name in names], dtype=int)
        )

    def with_client(self, owner: Any, frame: pd.DataFrame) -> Encoding:
        """Return the encoding with a client more, whose own statistics are those of its rows in ``frame``.

        The federated statistics are then those of all clients, the new one's rows among them.
        """
        if owner in self.clients:
            raise ValueError(f"owner={owner!r} is known already. Try another name")
        numbers, codes = self._read(frame)
        everyone = np.zeros(len(frame), dtype=int)
        new = moments(numbers, everyone, 1)
        counts = {
            column: np.concatenate(
                [self.counts[column], _level_counts(codes[:, k], everyone, 1, len(levels))]
            )
            for k, (column, levels) in enumerate(self.levels.items())
        }
        own = Moments(*(np.concatenate(pair) for pair in zip(self.own, new, strict=True)))
        return replace(
            self, clients={**self.clients, owner: len(self.own.count)}, own=own, counts=counts
        )

    def _is_one(self, column: str) -> bool:
        return column not in self.levels or self.categories == "codes"

    def _shown(self, column: str) -> tuple:
        """The levels that have a feature."""
        return self.levels[column][1:] if self.categories == "dummies" else self.levels[column]

    def _read(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers ``[n, numbers]``, NaN where missing, and the levels' numbers, -1 where missing or new."""
        absent = [column for column in self.order if column not in frame.columns]
        if absent:
            raise ValueError(
                f"the table lacks the column {absent[0]!r}: it must have {list(self.order)}"
            )
        numbers = np.empty((len(frame), len(self.numbers)))
        for k, column in enumerate(self.numbers):
            numbers[:, k] = _numbers(frame, column)
        codes = np.full((len(frame), len(self.levels)), -1)
        for k, (column, levels) in enumerate(self.levels.items()):
            codes[:, k] = _codes(_levels(frame, column), levels)
        return numbers, codes

    def _features(self, frame: pd.DataFrame, client: np.ndarray) -> Tensor:
        numbers, codes = self._read(frame)
        gone = dict(zip(self.numbers, np.isnan(numbers).T, strict=True))
        gone |= dict(zip(self.levels, (codes < 0).T, strict=True))
        if self.missing == "refuse":
            self._refuse(frame, gone)
        numbers = np.where(np.isnan(numbers), self._by_row(self.missing, "mean")[client], numbers)
        if self.scale != "none":
            numbers = (numbers - self._by_row(self.scale, "mean")[client]) / self._by_row(
                self.scale, "deviation"
            )[client]
        value = dict(zip(self.numbers, numbers.T, strict=True))
        features = []
        for column in self.order:
            if column in value:
                features.append(value[column])
                continue
            code = codes[:, list(self.levels).index(column)]
            code = np.where(code < 0, self._modes(column)[client], code)
            first = len(self.levels[column]) - len(self._shown(column))
            shown = range(first, len(self.levels[column]))
            features += [code] if self.categories == "codes" else [code == level for level in shown]
        features += [gone[column] for column in self.flagged]
        return torch.from_numpy(np.stack(features, 1).astype(np.float32))

    def _by_row(self, choice: str, name: str) -> np.ndarray:
        """Return the mean or deviation of each client, and last the federated one: ``[N + 1, numbers]``."""
        everyone = getattr(self.federated, name)
        known = (
            self.own.count >= self.min_values
            if choice == "own"
            else np.zeros(self.own.count.shape, bool)
        )
        return np.concatenate([np.where(known, getattr(self.own, name), everyone), everyone[None]])

    def _modes(self, column: str) -> np.ndarray:
        """Return the most frequent level of each client, and last that of all: ``[N + 1]``."""
        counts = self.counts[column]
        everyone = counts.sum(0).argmax()
        known = (counts.sum(1) >= self.min_values) & (self.missing == "own")
        return np.append(np.where(known, counts.argmax(1), everyone), everyone)

    def _refuse(self, frame: pd.DataFrame, gone: Mapping[str, np.ndarray]) -> None:
        for column, where in gone.items():
            if where.any():
                row = int(np.flatnonzero(where)[0])
                told = f"column {column!r} has {frame[column].iloc[row]!r} at row {row} ({where.sum()} of {len(frame)})"
                raise ValueError(
                    f"{told}: it is missing, or no level of a training row. Try missing='federated'"
                )


@dataclass(frozen=True, eq=False)
class TabularDataset(FederatedDataset):
    """Rows of a table as examples, with the encoding that made them: ``encoding.columns`` names the features."""

    encoding: Encoding | None = None


def tabular(
    frame: pd.DataFrame,
    *,
    label: str,
    owner: Any = None,
    clients: int | None = None,
    split: Split | None = None,
    test: float | pd.DataFrame = 0.2,
    categorical: Sequence[str] = (),
    categories: Literal["onehot", "dummies", "codes"] = "onehot",
    missing: Literal["federated", "own", "refuse"] = "federated",
    flags: bool = False,
    scale: Literal["federated", "own", "none"] = "federated",
    min_values: int = 10,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    name: str = "",
) -> TabularDataset:
    """Make examples of a table, with the preprocessing that the study names, and divide them over clients.

    Columns of texts and of pandas' categories are categorical, all others are numbers; texts such as ``?`` and empty ones
    are missing.  Texts such as ``1,234`` or ``5 %``, and more than 50 of which most differ, are refused with a remedy.
    Whatever is fitted, is fitted on training rows.  "own" takes the statistics of a client's own training
    rows, for its training and its test rows; test rows that are no client's, and columns of which a client has fewer than
    ``min_values`` values, take the federated ones.  Numbers are standardised by the mean and standard deviation (divided by
    n) of the values that are there; features of categories and flags stay 0 and 1.

    Args:
        frame: A row per example, with the label and perhaps the owner among its columns.
        label: The column of labels: classes of any kind, or targets (see ``federate``).
        owner: The column of owners, or one name per row; None divides the rows by ``split``.
        clients: How many clients (default 10); with owners, as many as there are, or fewer, that are merged.
        split: Who holds what, where there is no owner (default ``iid()``).
        test: The share of each owner's rows that is held out, stratified by class (of all rows, where there is no
            owner), or a table of test rows with the same columns.  Owners of test rows who have no training row are
            clients with test rows only, or no clients where ``clients`` says how many; a log line names them.  Where
            none has a training row, leave the owner's column out of the test table.
        categorical: Columns of numbers, or of texts of whatever kind, that are categories, too.
        categories: "onehot" has a feature per level, "dummies" one less, "codes" one number, the level's.
        missing: Fill with the mean, or the most frequent level, of all clients ("federated") or of the client ("own"), or
            "refuse" rows with missing values.  A level that no training row has counts as missing.
        flags: Whether columns with missing values in training rows get a feature that is 1 where they are missing.
        scale: Standardise numbers by the statistics of all clients ("federated"), of the client ("own"), or not ("none").
        min_values: The number of values from which on a client's own statistics are taken.
        classes: The names of the classes; empty for a regression.
        seed: The seed of the split.
        name: The name of the data.

    Returns:
        The dataset, with its ``encoding``; ``test_parts`` say whose each test row is, where there are owners.

    Raises:
        ValueError: If a column, label or owner is missing, or a choice is none; the line names the remedy.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"age": [40, 50, None, 60] * 5, "sex": list("fmfm") * 5, "ill": [0, 1, 0, 1] * 5})
        >>> data = tabular(table.assign(site=list("ab") * 10), label="ill", owner="site", flags=True)
        >>> data.encoding.columns, list(data.x.shape)
        (('age', 'sex=f', 'sex=m', 'age missing'), [16, 4])
    """
    _check_choices(categories=categories, missing=missing, scale=scale)
    check_whole(1, min_values=min_values)
    _check_frame(frame, label)
    is_share = isinstance(test, Real)
    if not is_share:
        _check_frame(test, label)
    owners = None if owner is None else to_owners(_named(frame, owner), len(frame))
    if owners is not None and split is not None:
        raise ValueError(f"owner={owner!r} says who holds what, and so does split. Try split=None")
    labels, names = to_labels(
        [frame[label]] if is_share else [frame[label], test[label]], classes, f"frame[{label!r}]"
    )
    if is_share:
        groups = labels[0].numpy()
        stratified = groups if names else None
        held = (
            hold_out(groups, test).numpy()
            if owners is None
            else hold_out_each(owners, stratified, test)
        )
        tables, y = (frame[~held], frame[held]), (labels[0][~held], labels[0][held])
        whose = None if owners is None else (owners[~held], owners[held])
    else:
        tables, y, whose = (frame, test), tuple(labels), None
        if owners is not None:
            same = _is_column(frame, owner) and _is_column(test, owner)
            whose = owners, to_owners(test[owner], len(test)) if same else None
    parts, test_parts = who_holds(y[0].numpy(), clients, split, seed, whose)
    left_out = {label, owner} if _is_column(frame, owner) else {label}
    order = tuple(column for column in frame.columns if column not in left_out)
    numbers = _client_of(parts, len(tables[0])), _client_of(test_parts or [], len(tables[1]))
    chosen = Encoding(
        order, {}, categories, missing, scale, (), min_values, {}, Moments(*[np.empty(0)] * 3), {}
    )
    encoding = _fit(
        chosen,
        tables[0],
        {categorical} if isinstance(categorical, str) else set(categorical),
        numbers[0],
        len(parts),
        flags,
    )
    if whose is not None:
        encoding = replace(
            encoding, clients=dict(zip(whose[0].tolist(), numbers[0].tolist(), strict=True))
        )
    x = [encoding._features(table, client) for table, client in zip(tables, numbers, strict=True)]
    data = checked(Arrays(x[0], y[0], (x[1], y[1]), names, name))
    return TabularDataset(data.x, data.y, parts, data.test, name, names, test_parts, encoding)


def moments(x: np.ndarray, client: np.ndarray, num_clients: int) -> Moments:
    """Return the moments of each client's values ``[N, columns]``; NaN is no value, and client -1 is nobody."""
    count, mean, squares = (np.zeros((num_clients, x.shape[1])) for _ in range(3))
    for i in range(num_clients):
        rows = x[client == i]
        there = ~np.isnan(rows)
        count[i] = there.sum(0)
        mean[i] = np.where(there, rows, 0).sum(0) / np.maximum(count[i], 1)
        squares[i] = (np.where(there, rows - mean[i], 0) ** 2).sum(0)
    return Moments(count, mean, squares)


def pooled(each: Moments) -> Moments:
    """Return the moments of all clients' values together, ``[columns]``, from those of each client ``[N, columns]``.

    Chan et al. 1983: no difference of large sums, so that columns far from 0 lose no digits.
    """
    count = each.count.sum(0)
    mean = (each.count * each.mean).sum(0) / np.maximum(count, 1)
    return Moments(count, mean, (each.squares + each.count * (each.mean - mean) ** 2).sum(0))


def _fit(
    encoding: Encoding,
    frame: pd.DataFrame,
    categorical: set[str],
    client: np.ndarray,
    num_clients: int,
    flags: bool,
) -> Encoding:
    """Return the encoding with the levels and statistics of training rows that belong to ``client [n]``."""
    order = encoding.order
    absent = categorical - set(order)
    if absent:
        raise ValueError(
            f"categorical: {sorted(absent)[0]!r} is no column of features: there are {list(order)}"
        )
    if not order:
        raise ValueError(
            "the table has no column beside label and owner: there is no feature. Try a table with more"
        )
    held = frame[client >= 0]
    levels = {
        column: _levels_of(held, column)
        for column in order
        if _is_category(held, column, column in categorical)
    }
    encoding = replace(encoding, levels=levels)
    numbers, codes = encoding._read(frame)
    own = moments(numbers, client, num_clients)
    for column, count in zip(encoding.numbers, own.count.sum(0), strict=True):
        if not count:
            raise ValueError(
                f"column {column!r} has no value in any training row. Try frame.drop(columns=[{column!r}])"
            )
    counts = {
        column: _level_counts(codes[:, k], client, num_clients, len(levels[column]))
        for k, column in enumerate(levels)
    }
    gone = dict(zip(encoding.numbers, np.isnan(numbers).T, strict=True)) | dict(
        zip(levels, (codes < 0).T, strict=True)
    )
    flagged = tuple(column for column in order if flags and gone[column].any())
    return replace(encoding, own=own, counts=counts, flagged=flagged)


def _level_counts(
    codes: np.ndarray, client: np.ndarray, num_clients: int, num_levels: int
) -> np.ndarray:
    """Return how many rows of each level each client has, ``[N, levels]``."""
    known = (codes >= 0) & (client >= 0)
    flat = np.bincount(
        client[known] * num_levels + codes[known], minlength=num_clients * num_levels
    )
    return flat.reshape(num_clients, num_levels)


def _client_of(parts: Sequence[np.ndarray], n: int) -> np.ndarray:
    """Return the client of each example, ``[n]``, -1 for nobody's."""
    client = np.full(n, -1)
    for i, part in enumerate(parts):
        client[part] = i
    return client


def _is_category(frame: pd.DataFrame, column: str, named: bool) -> bool:
    import pandas as pd

    kind = frame[column].dtype
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        days = f"(frame[{column!r}] - frame[{column!r}].min()) / pd.Timedelta('1D')"
        raise ValueError(
            f"column {column!r} holds times: features are numbers or categories. Try {days}"
        )
    if named or isinstance(kind, pd.CategoricalDtype):
        return True
    if _is_numeric(frame, column):
        return False
    texts = [cell for cell in _cells(frame, column) if isinstance(cell, str)]
    if all(map(_is_number, texts)):
        return False
    _check_texts(column, texts, len(frame))
    return True


def _check_texts(column: str, texts: Sequence[str], n: int) -> None:
    """Raise ValueError for a column of ``n`` rows whose texts are numbers in another writing, or names of rows."""
    each, by_name = f"frame[{column!r}]", f"or categorical=[{column!r}] if it is a category"
    written = next(text for text in texts if not _is_number(text))
    if all(_is_number(re.sub(r"[,%\s]", "", text)) for text in texts):
        told = f"column {column!r} holds numbers as texts, such as {written!r}"
        points = any(
            re.search(r"\..*,", text) for text in texts
        )  # between thousands, before a decimal comma
        comma = points or any(re.search(r"^\D*0,|,(\d{1,2}|\d{4,})\D*$", text) for text in texts)
        clean = f"{each}.str.replace(r'[%\\s{'.' if points else ''}{'' if comma else ','}]', '', regex=True)"
        clean += ".str.replace(',', '.')" if comma else ""
        raise ValueError(f"{told}. Try {each} = pd.to_numeric({clean}), {by_name}")
    levels = len(set(texts))
    if levels > MANY_LEVELS and levels > n / 2:
        told = f"column {column!r} has {levels:,} different texts in {n:,} rows, such as {written!r}, as names of rows have"
        raise ValueError(f"{told}. Try frame.drop(columns=[{column!r}]), {by_name}")


def _is_numeric(frame: pd.DataFrame, column: str) -> bool:
    import pandas as pd

    kind = frame[column].dtype
    return pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind)


def _reals(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column of numbers as float64, NaN where one is missing; ValueError for complex ones."""
    import pandas as pd

    if pd.api.types.is_complex_dtype(frame[column].dtype):
        each = f"frame[{column!r}]"
        told = f"column {column!r} holds complex numbers: features must be real"
        raise ValueError(
            f"{told}. Try {each} = np.abs({each}), or np.real and np.imag of it in two columns"
        )
    return frame[column].to_numpy(dtype=np.float64, na_value=np.nan)


def _cells(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as objects, None where a cell is missing or a mark such as ``?``."""
    cells = frame[column].to_numpy(dtype=object)
    return np.array([None if is_missing_mark(cell) else cell for cell in cells], dtype=object)


def _is_number(cell: Any) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def _numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column as float64, NaN where a cell is missing."""
    if _is_numeric(frame, column):
        values = _reals(frame, column)
        wrong = np.isinf(values)
    else:
        cells = _cells(frame, column)
        wrong = np.array([cell is not None and not _is_number(cell) for cell in cells], dtype=bool)
        values = np.array(
            [
                np.nan if cell is None or bad else float(cell)
                for cell, bad in zip(cells, wrong, strict=True)
            ]
        )
        wrong |= np.isinf(values)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = frame[column].tolist()[row]
        told = f"column {column!r} has {value!r} at row {row}: it must hold finite numbers"
        remedy = f"frame.replace({value!r}, None), or categorical=[{column!r}]"
        if isinstance(value, bytes):
            remedy = f"frame[{column!r}] = frame[{column!r}].str.decode('utf-8')"
        raise ValueError(
            f"{told}. Try {remedy if np.isscalar(value) else f'frame.drop(columns=[{column!r}])'}"
        )
    return values


def _levels(frame: pd.DataFrame, column: str) -> np.ndarray:
    """Return the level of each row: numbers, also where they are written as texts, NaN where missing; or texts, or None."""
    if _is_numeric(frame, column):
        values = _reals(frame, column)
    else:
        cells = _cells(frame, column)
        if not all(cell is None or _is_number(cell) for cell in cells):
            return np.array([None if cell is None else str(cell) for cell in cells], dtype=object)
        values = np.array([np.nan if cell is None else float(cell) for cell in cells])
    if (np.abs(values[np.isfinite(values)]) > EXACT).any():
        told = f"column {column!r} has categories beyond {EXACT:,}, where float64 takes different ones for equal"
        raise ValueError(f"{told}. Try frame[{column!r}] = 'n' + frame[{column!r}].astype(str)")
    return values


def _codes(values: np.ndarray, levels: tuple) -> np.ndarray:
    """Return the number of each row's level, -1 where it is missing or none of them."""
    import pandas as pd

    if values.dtype.kind == "f" and isinstance(
        levels[0], str
    ):  # numbers only, where training rows have texts, too
        values = np.array(
            [None if np.isnan(value) else f"{value:g}" for value in values], dtype=object
        )
    if values.dtype.kind == "O" and not isinstance(levels[0], str):
        values = np.array([float(value) if _is_number(value) else np.nan for value in values])
    return pd.Index(np.array(levels, dtype=values.dtype)).get_indexer(values)


def _levels_of(frame: pd.DataFrame, column: str) -> tuple:
    """Return the levels of a column in its training rows, in the order of its categories, or sorted."""
    import pandas as pd

    values = _levels(frame, column)
    if values.dtype.kind == "f":
        present = [
            int(value) if value == int(value) else value
            for value in np.unique(values[np.isfinite(values)]).tolist()
        ]
    else:
        present = sorted({value for value in values if value is not None})
    if not present:
        raise ValueError(
            f"column {column!r} has no value in any training row. Try frame.drop(columns=[{column!r}])"
        )
    kind = frame[column].dtype
    if isinstance(kind, pd.CategoricalDtype) and values.dtype.kind == "O":
        return tuple(level for level in map(str, kind.categories) if level in set(present))
    return tuple(present)


def _check_frame(frame: Any, label: str) -> None:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            f"the table is a {type(frame).__name__}: it must be a DataFrame. Try pd.DataFrame(rows)"
        )
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ValueError(
            f"the table has several columns {twice!r}: each has a name of its own. Try frame.columns = [...]"
        )
    if not isinstance(label, Hashable):
        several = f"federate(frame.drop(columns={label!r}), frame[{label!r}]) for several targets"
        raise ValueError(
            f"label={label!r} must be the name of one column. Try label={[*label, 'name'][0]!r}, or {several}"
        )
    if label not in frame.columns:
        raise ValueError(
            f"label={label!r} is no column of the table: there are {list(frame.columns)}"
        )
    if len(frame) == 0:
        raise ValueError("the table has no row: there is nothing to train on")


def _named(frame: pd.DataFrame, owner: Any) -> Any:
    """Return the owner of each row, from a column's name or as it is."""
    if _is_column(frame, owner):
        return frame[owner]
    if isinstance(owner, str | int):
        remedy = " Try frame.reset_index()" if owner in frame.index.names else ""
        raise ValueError(
            f"owner={owner!r} is no column of the table: there are {list(frame.columns)}.{remedy}"
        )
    return owner


def _is_column(frame: pd.DataFrame, name: Any) -> bool:
    return isinstance(name, Hashable) and name in frame.columns


def _check_choices(**chosen: str) -> None:
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise ValueError(
                f"{name}={value!r}: it must be one of {', '.join(map(repr, CHOICES[name]))}"
            )
