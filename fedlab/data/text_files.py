"""Files of texts as frames: CSV, TSV, JSON and JSON Lines, in UTF-8."""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

OTHER_SEPARATORS = r"[;\t|]"  # of the cells of a file, beside commas
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")


def read_frame(path: Path) -> Any:
    """Return a file as a DataFrame of texts, in which only an empty cell is missing.

    Raises:
        ValueError: If the file is no table in UTF-8; the message names the remedy.
        FileNotFoundError: If there is no such file.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ValueError(
            f"{path} must be a file of texts, and it is a folder. Try one of its files"
        )
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} (the suffix is the "
            "format of the texts). Try a DataFrame of its rows"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"{path} must be a file (it is not there). Try an absolute path: a relative one begins "
            f"at {Path.cwd()}"
        )
    content = _read_content(path, suffix)
    if suffix in (".csv", ".tsv"):
        return _parse_csv(path, content, "\t" if suffix == ".tsv" else ",")
    return _parse_json(path, content, suffix == ".jsonl")


def _read_content(path: Path, suffix: str) -> str:
    """Return a file's text; raise ValueError, with a guess, for another encoding than UTF-8."""
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
        if "\0" not in content:
            return io.StringIO(content, newline=None).read()
        is_little_endian = raw[1::2].count(0) > raw[::2].count(0)
        reason = "it has zero bytes"
        encoding = "utf-16-le" if is_little_endian else "utf-16-be"
    except UnicodeDecodeError as error:
        reason, encoding = f"byte {error.start:,} is {raw[error.start]:#x}", "latin-1"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    reader = "read_csv" if suffix in (".csv", ".tsv") else "read_json"
    arguments = {".tsv": ", sep='\\t'", ".jsonl": ", lines=True"}.get(suffix, "")
    raise ValueError(
        f"{path} must be in UTF-8 ({reason}). "
        f"Try pd.{reader}(path, encoding={encoding!r}{arguments}), and pass the frame"
    )


def _parse_csv(path: Path, content: str, separator: str) -> Any:
    """Return the rows of a CSV file as a frame; raise ValueError if its cells are ambiguous."""
    import pandas as pd

    header = content.partition("\n")[0]
    if separator in header or not re.search(OTHER_SEPARATORS, header):
        _check_quotes(path, content, separator)
    options = {"dtype": str, "keep_default_na": False, "na_values": [""], "index_col": False}
    try:
        with warnings.catch_warnings():  # pandas warns of rows that are longer than the header
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(io.StringIO(content), sep=separator, **options)
    except pd.errors.ParserWarning as error:
        raise ValueError(
            f"{path} must have as many cells in a row as its header (some rows have more). "
            f"Try double quotes around texts with {separator!r} in them"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(
            f"{path} must be a table ({str(error).strip()}). Try pd.read_csv(path, sep=...)"
        ) from error
    if frame.shape[1] == 1 and (match := re.search(OTHER_SEPARATORS, str(frame.columns[0]))):
        raise ValueError(
            f"{path} must have cells divided by {separator!r}, and its one column "
            f"{frame.columns[0]!r} has {match[0]!r} in it. "
            f"Try pd.read_csv(path, sep={match[0]!r}), and pass the frame"
        )
    return frame


def _parse_json(path: Path, content: str, by_line: bool) -> Any:
    """Return the objects of a JSON or JSON Lines file as a frame."""
    import pandas as pd

    rows = []
    for k, line in enumerate(content.split("\n") if by_line else [content], 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} must be JSON in line {k} ({error.msg}). "
                "Try one object per line in a .jsonl file, or one list of them in .json"
            ) from error
    if rows and not by_line:
        rows = rows[0]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path} must hold objects with named fields (it holds other values). "
            'Try rows such as {"text": "..."}'
        )
    return pd.DataFrame(rows)


def _check_quotes(path: Path, content: str, separator: str) -> None:
    """Raise ValueError for a double quote that is a letter of a text, and would join rows.

    The closing quote of such a cell is in another place, or the cell spans several lines that are
    rows by themselves.
    """
    cell = re.compile(rf'(?:"([^"]*(?:""[^"]*)*)" *|(?!")[^{separator}\n]*)(?:{separator}|\n|\Z)')
    are_rows = len({line.count(separator) for line in content.split("\n") if line}) == 1
    place = 0 if '"' in content else len(content)
    while place < len(content):
        match = cell.match(content, place)
        text = (match and match[1]) or ""
        if not match or (are_rows and "\n" in text and re.search(rf"{separator}\S", text)):
            line = content.count("\n", 0, place) + 1
            sep = "" if separator == "," else f"sep={separator!r}, "
            raise ValueError(
                f"{path} must close a cell in line {line} that begins with a double quote (it does "
                f"not end with one in that line). Try pd.read_csv(path, {sep}quoting=3), which "
                "takes quotes as letters, and pass the frame"
            )
        place = match.end()
