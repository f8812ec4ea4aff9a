"""Read CSV files as people write them, with errors that name the line and the column."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_EMPTY = ("", "na", "n/a", "nan", "null", "none")


class Sheet:
    """A CSV file whose first line names the columns.

    Args:
        path: The file, in UTF-8.
        known: Names that columns may have.
        needed: Names of the required columns.
    """

    def __init__(self, path: str | Path, known: Sequence[str], needed: Sequence[str]):
        text = _read_text(path)
        self.name = Path(path).name
        header_line = next((line for line in text.splitlines() if line.strip()), "")
        self.separator = max(",;\t", key=header_line.count)
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=self.separator, skipinitialspace=True
        )
        lines = [
            (reader.line_num, [cell.strip() for cell in row])
            for row in reader
            if any(cell.strip() for cell in row)
        ]
        if not lines:
            raise ValueError(
                f"{self.name} is empty, and its first line must name the columns. "
                f"Try {','.join(needed)}"
            )
        (_, header), *self._lines = lines
        self._header = [re.sub(r"[\s-]+", "_", name.lower()) for name in header]
        while self._header and not self._header[-1]:
            self._header.pop()
        if self._is_numbered():
            self._header = self._header[1:]
            self._lines = [(line, row[1:]) for line, row in self._lines]
        self._check_header(known, needed)
        self._check_widths()
        self._decimal_comma = self._has_decimal_commas()

    def _is_numbered(self) -> bool:
        """Return whether the first column is the index that pandas writes: nameless, from 0."""
        counts = all(row[0] == str(k) for k, (_, row) in enumerate(self._lines))
        return len(self._header) > 1 and not self._header[0] and counts

    def _check_header(self, known: Sequence[str], needed: Sequence[str]) -> None:
        if missing := [name for name in needed if name not in self._header]:
            raise ValueError(
                f"{self.name} has no column {missing[0]} and must have {', '.join(needed)}. "
                f"Try a first line with these names; it has {', '.join(self._header)}"
            )
        if unknown := [name for name in self._header if name not in known]:
            raise ValueError(
                f"{self.name} has a column {unknown[0]!r}, and may have {', '.join(known)}. "
                "Try it without"
            )
        if repeated := [name for name in self._header if self._header.count(name) > 1]:
            raise ValueError(
                f"{self.name} has the column {repeated[0]} twice, and must have it once. "
                "Try it without one"
            )
        if not self._lines:
            raise ValueError(
                f"{self.name} has no rows under its first line, and must have some. "
                "Try a line per client"
            )

    def _check_widths(self) -> None:
        """Drop empty cells at the end of lines, and check the number of cells."""
        for line, row in self._lines:
            while len(row) > len(self._header) and not row[-1]:
                row.pop()
            if len(row) != len(self._header):
                raise ValueError(
                    f"{self.name}, line {line}: it has {len(row)} cells and must have "
                    f"{len(self._header)}, one per column. Try a point in numbers, and quotes "
                    f"around a text with {self.separator!r}"
                )

    def _has_decimal_commas(self) -> bool:
        """Return whether numbers have a decimal comma; raise ValueError for a mixture."""
        marks: dict[str, int] = {}
        if self.separator == ",":
            return False
        for row, (_, cells) in enumerate(self._lines):
            for name, cell in zip(self._header, cells, strict=True):
                if name in ("device", "link"):
                    continue
                if re.fullmatch(r"[-+]?\d*[.,]\d+([eE][-+]?\d+)?", cell):
                    marks["," if "," in cell else "."] = row
                    if len(marks) == 2:
                        line = self.line(min(marks.values()))
                        message = f"must have the decimal mark of line {line}. Try 1.5 in both"
                        raise self.error(row, name, message)
        return "," in marks

    def line(self, row: int) -> int:
        """Return the line number in the file of a row, which counts from 0."""
        return self._lines[row][0]

    def texts(self, name: str) -> list[str]:
        """Return the cells of a column; they are empty if there is no such column."""
        if name not in self._header:
            return [""] * len(self._lines)
        k = self._header.index(name)
        return [row[k] for _, row in self._lines]

    def numbers(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a column (NaN for other cells), and a mask of empty cells."""
        cells = self.texts(name)
        empty = np.array([cell.lower() in _EMPTY for cell in cells])
        values = [
            math.nan if is_empty else self._number(cell)
            for is_empty, cell in zip(empty, cells, strict=True)
        ]
        return np.array(values, dtype=float), empty

    def _number(self, cell: str) -> float:
        try:
            return float(
                cell.replace(",", ".") if self._decimal_comma and cell.count(",") == 1 else cell
            )
        except ValueError:
            return math.nan

    def error(self, row: int, name: str, message: str, client: int | None = None) -> ValueError:
        """Return the error of a cell, to be raised.

        Args:
            row: Row of the cell, from 0.
            name: Column of the cell.
            message: Limit and remedy.
            client: Number of the client, if it is the row's.
        """
        of_client = "" if client is None else f" (client {client})"
        cell = self.texts(name)[row]
        return ValueError(
            f"{self.name}, line {self.line(row)}{of_client}: {name}={cell or 'nothing'} "
            f"{message}{_remedy(cell)}"
        )


def _read_text(path: str | Path) -> str:
    """Return the text of a file; raise an error with a remedy for anything else."""
    if not isinstance(path, str | Path):
        raise ValueError(f"path={path!r:.80} must be the path of a CSV file. Try 'mine.csv'")
    if Path(path).is_dir():
        raise ValueError(
            f"path={str(path)!r} must be a CSV file, and it is a folder. Try '{path}/mine.csv'"
        )
    if not Path(path).exists():
        raise FileNotFoundError(
            f"path={str(path)!r} must be a file, and there is none. "
            f"Try the whole path: a relative one begins at {Path.cwd()}"
        )
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{Path(path).name} must be text in UTF-8, and its byte {error.start} is not. "
            "Try saving it as CSV UTF-8"
        ) from error


def _remedy(cell: str) -> str:
    """Return the remedy for a number in another notation; empty for other cells."""
    if re.fullmatch(r"[-+]?\d{1,3}([, '\u00a0\u202f]\d{3})+(\.\d+)?", cell):
        return f". Try {re.sub(r'[^-+.0-9]', '', cell)} if {cell!r} has a mark between thousands"
    if re.fullmatch(r"[-+]?\d+,\d+", cell):
        return f". Try {cell.replace(',', '.')}, with a point"
    if match := re.fullmatch(r"(\d{1,2}):(\d\d)", cell):
        return f". Try {int(match[1]) + int(match[2]) / 60:.4g}, in hours"
    if match := re.fullmatch(r"(\d+([.,]\d+)?)\s*%", cell):
        return f". Try {float(match[1].replace(',', '.')) / 100:g}, a share"
    return ""
