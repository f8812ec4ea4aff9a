"""Turn what people hold (arrays, frames, lists, pictures, sparse matrices) into tensors, or say what works."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlab.data.partition import class_numbers

SHARE_OF_MEMORY = 0.5  # of what is free: a dense copy may take so much
MANY_CLASSES = (
    100  # more than these must have two examples each, or they are rather numbers to predict
)
MISSING_MARKS = {
    "?",
    "",
    "-",
    "NA",
    "N/A",
    "NaN",
    "nan",
    "None",
    "null",
}  # texts that stand for no value
CHANNELS = (1, 3, 4)  # of pictures
MODES = (
    "1",
    "L",
    "LA",
    "RGB",
    "RGBA",
    "I",
    "F",
    "I;16",
    "I;16L",
    "I;16B",
    "I;16N",
)  # whose numbers are light, or alpha
WHOLE_END = 2**63  # where int64 ends: a larger number would wrap to a negative one


def to_examples(values: Any, name: str = "x") -> Tensor:
    """Return examples as a new or shared CPU tensor ``[n, ...]``, contiguous and writeable.

    Real numbers and booleans become float32, and so does every number of a frame or of a sparse matrix.  Whole
    numbers of arrays, tensors and lists become int64, for models that look tokens up.  uint8 stays uint8, as pictures of
    8 bits have it; pictures of other depths become float32.

    Args:
        values: Array, tensor, nested list, DataFrame of numbers, scipy sparse matrix, or list of pictures.
        name: The argument's name, for errors.

    Returns:
        The examples; they may share memory with ``values``.

    Raises:
        ValueError: If a value is no number, or is missing, or examples differ in shape; the line names the remedy.
    """
    if isinstance(values, Tensor):
        return _from_tensor(values, name)
    if _is_frame(values):
        return torch.from_numpy(_real(frame_numbers(values, name), name))
    if _is_series(values):
        remedy = "list" if _is_nested(next(iter(values), None)) else "pd.DataFrame"
        raise ValueError(
            f"{name} must be an array [n, ...], and it is a {type(values).__name__} of {len(values)} values. "
            f"Try {remedy}({name})"
        )
    if callable(getattr(values, "toarray", None)):  # scipy's sparse matrices and arrays
        return torch.from_numpy(_writeable(_dense(values, name), np.float32))
    if isinstance(values, torch.utils.data.Dataset):
        pair = f"torch.stack([x for x, _ in {name}]), [y for _, y in {name}]"
        raise ValueError(
            f"{name} is a {type(values).__name__}: examples must be an array. Try {pair}"
        )
    array = _array(values, name)
    if array.dtype.kind == "O":
        array = _from_objects(array, name)
    if array.dtype.names is not None:
        raise ValueError(
            f"{name} is an array with fields {array.dtype.names}. Try pd.DataFrame({name})"
        )
    if array.dtype == np.uint8:
        return torch.from_numpy(_writeable(array, np.uint8))
    if array.dtype.kind == "u" and array.max(initial=0) >= WHOLE_END:
        raise ValueError(_too_large(array.max(), name))
    return torch.from_numpy(
        _real(array, name) if array.dtype.kind == "f" else _writeable(array, _kind(array, name))
    )


def warn_of_channels(x: Tensor) -> None:
    """Log a line for pictures that seem to have their channels last: a convolution would read rows as channels."""
    if x.dim() == 4 and x.shape[3] in CHANNELS and x.shape[1] not in CHANNELS:
        shape = (
            f"examples of the shape {list(x.shape[1:])} look like pictures with their channels last"
        )
        logging.getLogger(__name__).warning(
            f"{shape}; models of pictures take [channels, height, width]. Try x.transpose(0, 3, 1, 2) of the array"
        )


def frame_numbers(frame: Any, name: str = "x") -> np.ndarray:
    """Return a frame of numbers and booleans as ``[n, columns]`` of float64; ValueError names column, row and remedy."""
    numbers = np.empty((len(frame), frame.shape[1]))
    for k, label in enumerate(frame.columns):
        numbers[:, k] = _column(frame.iloc[:, k], label, name)
    missing = np.isnan(numbers)
    if missing.any():
        row, k = np.argwhere(missing)[0]
        many = f"{missing[:, k].sum()} of {len(frame)} have none"
        told = f"column {frame.columns[k]!r} of {name} has no value at row {row} ({many})"
        filled = f"{name}.astype(float).fillna({name}.astype(float).mean())"
        raise ValueError(
            f"{told}. Try tabular(frame, label=...), which fills what is missing, or {filled}"
        )
    return numbers


def to_labels(
    labels: Sequence[Any], classes: Sequence[str] | None = None, name: str = "y"
) -> tuple[list[Tensor], tuple[str, ...]]:
    """Return the labels of the training and test examples as tensors, and the names of the classes.

    Texts, booleans and categories become class numbers in the order of the sorted names (of the categories).  Whole
    numbers are class numbers from 0; 1 to K are renumbered, and a log line says so.  Reals ``0.0, 1.0, ...`` without a
    gap are class numbers, too; other reals are targets of a regression.  ``classes=()`` makes targets of any numbers.
    A log line names classes without an example.

    Args:
        labels: One or more of: array, tensor, list, Series, frame of one column.
        classes: The names of the classes, by their numbers; or empty for a regression.
        name: The argument's name, for errors.

    Returns:
        A tensor for each of ``labels``, int64 for classes or float32 for targets; and the names, empty for targets.

    Raises:
        ValueError: If a label is missing, out of range or no label at all; the line names the remedy.
    """
    names = None if classes is None else _class_names(classes)
    columns = [_label_column(column, name) for column in labels]
    if names == ():
        columns = [
            (array.astype(float) if _is_boolean(array) else array, order)
            for array, order in columns
        ]
    if all(array.dtype.kind in "OU" for array, _ in columns):
        return _named(columns, names, name)
    for array, _ in columns:
        if array.dtype.kind in "OU":
            told = f"{name}: some labels are texts, such as {array.flat[0]!r}, and some are numbers"
            raise ValueError(f"{told}: make them alike")
    arrays = [array for array, _ in columns]
    if names == ():
        return [torch.from_numpy(_real(array, name)) for array in arrays], ()
    for array in arrays:
        _check_flat(array, name)
    if all(_is_whole(array) for array in arrays) and (names or _are_classes(arrays, name)):
        return _numbered(arrays, names, name)
    if names:
        array = next(array for array in arrays if not _is_whole(array))
        wrong = (
            array.flat[np.flatnonzero(array != np.round(array))[0]]
            if array.dtype.kind == "f"
            else array.flat[0]
        )
        raise ValueError(
            f"{name}: label {wrong} is no class number, and {len(names)} classes are named. Try classes=()"
        )
    return [
        torch.from_numpy(_real(a, name) if a.dtype.kind == "f" else _writeable(a, np.int64))
        for a in arrays
    ], ()


def to_owners(owner: Any, n: int) -> np.ndarray:
    """Return the name of each example's holder, ``[n]``; ValueError for missing names, or another number of them."""
    if isinstance(owner, str):
        told = f"owner={owner!r} is one text: give one name per example"
        raise ValueError(
            f"{told}. Try owner=frame[{owner!r}], or tabular(frame, label=..., owner={owner!r})"
        )
    if _is_frame(owner) and owner.shape[1] == 1:
        owner = owner.iloc[:, 0]
    values = owner.numpy(force=True) if isinstance(owner, Tensor) else owner
    values = _exact(values.astype(object) if _is_series(values) else values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(
            f"owner has shape {values.shape}: it must be [n], one name or number per example"
        )
    if len(values) != n:
        raise ValueError(
            f"owner: {len(values)} names for {n} examples; give one an example, and no split beside it"
        )
    missing = _missing(values)
    if missing.any():
        first, many = np.flatnonzero(missing)[0], missing.sum()
        raise ValueError(
            f"owner: example {first} has none, but {values[first]} ({many} of {n} have none): every example has a holder. "
            "Try leaving these rows out, or a name for them such as 'unknown'"
        )
    if values.dtype == np.uint64:
        values = values.astype(object)  # beside int64, NumPy would compare them as reals
    if values.dtype.kind != "O":
        return values
    kinds = sorted({_plain_type(value) for value in values})
    if len(kinds) > 1:
        raise ValueError(
            f"owner: names are of several types ({', '.join(kinds)}). Try owner=[str(name) for name in owner]"
        )
    if kinds == ["int"] and any(abs(value) >= WHOLE_END for value in values):
        return np.array([int(value) for value in values], dtype=object)
    return (
        np.array(values.tolist())
        if kinds[0] in ("str", "int", "float", "bool")
        else np.array([str(v) for v in values])
    )


def check_index(**columns: Any) -> None:
    """Raise ValueError where frames or Series that go together have different indexes: their rows would be mixed up."""
    held = {
        name: values for name, values in columns.items() if _is_frame(values) or _is_series(values)
    }
    for (first, one), (second, other) in zip(held.items(), list(held.items())[1:], strict=False):
        if not (hasattr(one, "index") and hasattr(other, "index")):
            continue  # a bare categorical or nullable array has no index
        if len(one) == len(other) and not one.index.equals(other.index):
            told = (
                f"{first} and {second} have different indexes, so their rows do not belong together"
            )
            raise ValueError(
                f"{told}. Try {second}.loc[{first}.index], or {second}.to_numpy() if the order is right"
            )


def check_columns(x: Any, test: Any) -> None:
    """Raise ValueError for a test frame with other columns than the training frame, or in another order."""
    if _is_frame(x) and _is_frame(test) and list(x.columns) != list(test.columns):
        absent = [column for column in x.columns if column not in set(test.columns)]
        if absent:
            raise ValueError(
                f"the test frame lacks the column {absent[0]!r} of x: give it the columns of x"
            )
        told = "the columns of the test frame are in another order than those of x"
        raise ValueError(f"{told}. Try test=(x_test[x.columns], y_test)")


def _from_tensor(values: Tensor, name: str) -> Tensor:
    if values.dim() == 0:
        raise ValueError(f"{name} is a single number: examples must be [n, ...]")
    if values.layout != torch.strided:
        _check_room(values.shape, name)
        values = values.to_dense()
    if values.is_complex():
        raise ValueError(_complex(name))
    if values.dtype == torch.uint64:
        return to_examples(values.numpy(force=True), f"{name}.numpy()")
    if values.is_floating_point() or values.dtype == torch.bool:
        kind = torch.float32
    else:
        kind = torch.uint8 if values.dtype == torch.uint8 else torch.int64
    return values.detach().to("cpu", kind).contiguous()


def _array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, np.ma.MaskedArray):
        return (
            values.astype(np.float64).filled(np.nan)
            if np.ma.is_masked(values)
            else np.asarray(values)
        )
    if isinstance(values, list | tuple) and len(values):
        if all(hasattr(value, "getbands") for value in values):
            return _pictures(values, name)
        if all(isinstance(value, Tensor) for value in values):
            values = [value.detach().cpu() for value in values]
            values = [value.float() if value.dtype == torch.bfloat16 else value for value in values]
        try:
            return _exact(values)
        except ValueError as error:  # rows of different lengths
            raise ValueError(_unequal([np.shape(value) for value in values], name)) from error
    array = np.asarray(values)
    if array.ndim == 0:
        raise ValueError(
            f"{name} is a {type(values).__name__}: examples must be an array [n, ...], a tensor or a frame"
        )
    return array


def _exact(values: Any) -> np.ndarray:
    """Return an array, of objects where NumPy would round a list's whole numbers that no int64 holds to reals."""
    array = np.asarray(values)
    first = (
        values
        if isinstance(values, list | tuple) and array.dtype.kind == "f" and array.size
        else 0.0
    )
    while isinstance(first, list | tuple):
        first = first[0]
    if np.asarray(first).dtype.kind in "iu":
        size = np.abs(array)
        return (
            np.asarray(values, dtype=object)
            if ((size >= WHOLE_END) & np.isfinite(size)).any()
            else array
        )
    return array


def _too_large(value: Any, name: str) -> str:
    return (
        f"{name} must hold whole numbers below 2**63 (int64), and it holds {value}. Try np.array({name}, float), "
        f"or (np.array({name}, object) % 2**20).astype(int) for hashed features with a table of 2**20 rows"
    )


def _pictures(images: Sequence[Any], name: str) -> np.ndarray:
    """Return Pillow's images of one mode and size, ``[n, channels, height, width]``: as bytes, or real numbers."""
    kinds = {(image.mode, image.size) for image in images}
    if len(kinds) > 1:
        told = f"{name}: pictures differ in mode or size, such as {' and '.join(map(str, sorted(kinds)[:2]))}"
        raise ValueError(f"{told}. Try [image.convert('RGB').resize((32, 32)) for image in {name}]")
    mode = images[0].mode
    if mode not in MODES:
        held = (
            "numbers of a palette's colours"
            if mode in ("P", "PA")
            else "other numbers than grey, red, green and blue"
        )
        raise ValueError(
            f"{name}: pictures of mode {mode!r} hold {held}. Try [image.convert('RGB') for image in {name}]"
        )
    array = np.stack([np.asarray(image) for image in images])
    array = array if array.dtype == np.uint8 else array.astype(np.float32)
    return array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)


def _from_objects(array: np.ndarray, name: str) -> np.ndarray:
    """Return numbers out of an object array: a table's cells, pictures, or arrays of one shape."""
    if array.ndim == 1 and len(array) and all(hasattr(value, "getbands") for value in array):
        return _pictures(array, name)
    if array.ndim == 1 and len(array) and all(map(_is_nested, array)):
        shapes = [np.shape(value) for value in array]
        if len(set(shapes)) > 1:
            raise ValueError(_unequal(shapes, name))
        return np.stack([np.asarray(value) for value in array])
    flat = array.ravel()
    numbers = np.empty(len(flat))
    for k, value in enumerate(flat):
        number = _number(value)
        if number is None:
            place = ", ".join(map(str, np.unravel_index(k, array.shape)))
            raise ValueError(
                f"{name}[{place}] is {value!r}: examples must be numbers. {_remedy(value, name)}"
            )
        if isinstance(value, int | np.integer) and abs(number) >= WHOLE_END:
            raise ValueError(_too_large(value, name))
        numbers[k] = number
    return numbers.reshape(array.shape)


def _is_nested(value: Any) -> bool:
    """Return whether a cell is an array, a list or a picture: an example by itself."""
    return isinstance(value, np.ndarray | list | tuple | Tensor) or hasattr(value, "getbands")


def _number(value: Any) -> float | None:
    """Return a cell as a number, NaN where it is missing; None for what is no number."""
    if isinstance(value, Real | Decimal | np.bool_) and not isinstance(value, np.timedelta64):
        with suppress(OverflowError):
            return float(value)
        return None
    return np.nan if value is None or type(value).__name__ in ("NAType", "NaTType") else None


def _remedy(value: Any, name: str) -> str:
    if not isinstance(value, str):
        return (
            f"Try pd.DataFrame({name})"
            if isinstance(value, Mapping)
            else f"A {type(value).__name__} is none"
        )
    if _parses(value) or value.strip() in MISSING_MARKS:
        return f"Try pd.DataFrame({name}).apply(pd.to_numeric, errors='coerce'), and fill what is missing"
    return f"Try tabular(frame, label=...), which encodes texts, or pd.get_dummies(pd.DataFrame({name}), dtype=float)"


def _column(column: Any, label: Any, name: str) -> np.ndarray:
    """Return a column of a frame as float64 ``[n]``, NaN where a value is missing."""
    import pandas as pd

    kind = column.dtype
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        each = f"{name}[{label!r}]"
        start = "" if pd.api.types.is_timedelta64_dtype(kind) else f" - {each}.min()"
        days = f"({each}{start}) / pd.Timedelta('1D')"
        raise ValueError(
            f"column {label!r} of {name} holds times: features must be numbers. Try {each} = {days}"
        )
    if pd.api.types.is_complex_dtype(kind):
        raise ValueError(_complex(f"column {label!r} of {name}"))
    if pd.api.types.is_bool_dtype(kind) or pd.api.types.is_numeric_dtype(kind):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if isinstance(kind, pd.CategoricalDtype):
        told = f"column {label!r} of {name} is categorical, such as {column.iloc[0] if len(column) else None!r}"
        raise ValueError(
            f"{told}. Try tabular(frame, label=...), which encodes it, or pd.get_dummies({name}, dtype=float)"
        )
    return _cells(column.to_numpy(dtype=object), label, name)


def _cells(cells: np.ndarray, label: Any, name: str) -> np.ndarray:
    """Return the cells of a column of mixed types as float64, NaN where one is missing."""
    numbers, texts = np.empty(len(cells)), []
    for k, cell in enumerate(cells):
        number = _number(cell)
        if number is None and not isinstance(cell, str):
            told = f"column {label!r} of {name} has {cell!r} at row {k}: features must be numbers"
            raise ValueError(
                f"{told}. Try {name}.drop(columns=[{label!r}]), or numbers in its place"
            )
        if number is None:
            texts.append(k)
        numbers[k] = np.nan if number is None else number
    if texts:
        wrong = [k for k in texts if not _parses(cells[k])]
        first = (wrong or texts)[0]
        told = f"column {label!r} of {name} has {cells[first]!r} at row {first}: features must be numbers"
        if not wrong:
            raise ValueError(f"{told}. Try {name}[{label!r}] = pd.to_numeric({name}[{label!r}])")
        if {cells[k].strip() for k in wrong} <= MISSING_MARKS:
            fixed = f"{name}[{label!r}] = pd.to_numeric({name}[{label!r}], errors='coerce')"
            raise ValueError(
                f"{told}. Try tabular(frame, label=...), which fills what is missing, or {fixed} and fill it"
            )
        dummies = f"pd.get_dummies({name}, dtype=float)"
        raise ValueError(
            f"{told}. Try tabular(frame, label=...), which encodes texts, or {dummies}"
        )
    return numbers


def _parses(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _dense(matrix: Any, name: str) -> np.ndarray:
    _check_room(matrix.shape, name)
    return matrix.astype(np.float32).toarray()


def _check_room(shape: Sequence[int], name: str) -> None:
    import psutil

    size, free = (
        4 * int(np.prod([int(side) for side in shape], dtype=object)),
        psutil.virtual_memory().available,
    )
    if size > SHARE_OF_MEMORY * free:
        told = f"{name} is sparse of the shape {list(shape)}: dense it takes {size / 1e9:,.1f} GB"
        told = f"{told}, and {free / 1e9:,.1f} GB are free"
        remedy = f"sklearn.decomposition.TruncatedSVD(100).fit_transform({name})"
        raise ValueError(f"{told}. Try fewer columns (max_features= of a vectorizer), or {remedy}")


def _kind(array: np.ndarray, name: str) -> type:
    if array.dtype.kind in "fb":
        return np.float32
    if array.dtype.kind in "iu":
        return np.int64
    if array.dtype.kind == "c":
        raise ValueError(_complex(name))
    if array.dtype.kind in "mM":
        since = f"({name} - {name}.min())" if array.dtype.kind == "M" else name
        told = f"{name} holds times ({array.dtype}): features must be numbers"
        raise ValueError(f"{told}. Try {since} / np.timedelta64(1, 'D')")
    value = str(array.flat[0]) if array.size else ""
    raise ValueError(
        f"examples of type {array.dtype}, such as {value!r}: they must be numbers. {_remedy(value, name)}"
    )


def _complex(name: str) -> str:
    return f"{name} holds complex numbers: features must be real. Try np.concatenate([x.real, x.imag], 1), or np.abs(x)"


def _unequal(shapes: Sequence[tuple[int, ...]], name: str) -> str:
    other = next((k for k, shape in enumerate(shapes) if shape != shapes[0]), 0)
    told = f"{name}: example 0 has the shape {list(shapes[0])} and example {other} {list(shapes[other])}"
    return f"{told}: examples must be of one shape. Try resizing pictures, or padding rows to the longest"


def _writeable(array: np.ndarray, kind: type) -> np.ndarray:
    """Return the array in rows of this type, with strides that PyTorch takes, and writeable."""
    return np.require(np.asarray(array), kind, ["C", "W"])


def _real(array: np.ndarray, name: str) -> np.ndarray:
    """Return the array as float32; ValueError for finite values beyond its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = _writeable(array, np.float32)
        total = numbers.sum(dtype=np.float64)
    if array.dtype.itemsize > 4 and not np.isfinite(total):
        beyond = np.isinf(numbers) & np.isfinite(array)
        if beyond.any():
            place = tuple(np.argwhere(beyond)[0].tolist())
            told = f"{name}{list(place)} is {array[place]:g}, beyond the 3.4e+38 where float32 ends"
            raise ValueError(
                f"{told}. Try standardising: ({name} - {name}.mean(0)) / {name}.std(0)"
            )
    return numbers


def _class_names(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, Mapping):
        raise ValueError(
            f"classes is a dict of {len(classes)}: it must list names by number. Try list(classes.values())"
        )
    if not isinstance(classes, Iterable):
        raise ValueError(
            f"classes={classes!r} must be the names of the classes. Try classes=range({classes})"
        )
    names = tuple(map(str, classes))
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise ValueError(
            f"classes: {twice[0]!r} stands there twice: each class has a name of its own"
        )
    return names


def _label_column(y: Any, name: str) -> tuple[np.ndarray, list | None]:
    """Return labels as an array of numbers or of objects, ``[n]`` or ``[n, ...]``; and categories in their order."""
    if isinstance(y, str):
        raise ValueError(
            f"{name}={y!r} is one text: give one label per example. Try {name}=frame[{y!r}]"
        )
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        y = (y.float() if y.dtype in (torch.bfloat16, torch.float16) else y).numpy()
    if _is_frame(y):
        y = _one_column(y, name)
    if _is_series(y):
        import pandas as pd

        y = pd.Series(y)
        if isinstance(y.dtype, pd.CategoricalDtype):
            _check_labelled(y.isna().to_numpy(), y.to_numpy(dtype=object), name)
            return y.to_numpy(dtype=object), list(y.cat.categories)
        numeric = pd.api.types.is_numeric_dtype(y.dtype) and not pd.api.types.is_bool_dtype(y.dtype)
        if numeric and not y.isna().any():
            whole = np.uint64 if pd.api.types.is_unsigned_integer_dtype(y.dtype) else np.int64
            y = y.to_numpy(dtype=whole if pd.api.types.is_integer_dtype(y.dtype) else np.float64)
        else:
            _check_labelled(y.isna().to_numpy(), y.to_numpy(dtype=object), name)
            y = y.to_numpy(dtype=object)
    array = y.filled(np.nan) if isinstance(y, np.ma.MaskedArray) and y.dtype.kind == "f" else y
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        _check_labelled(np.ma.getmaskarray(array), np.full(array.shape, "masked"), name)
    try:
        array = _exact(array)
    except ValueError as error:
        raise ValueError(
            f"{name}: labels have different lengths: give one label per example"
        ) from error
    if array.ndim == 0:
        raise ValueError(f"{name} is a {type(y).__name__}: labels must be [n], one per example")
    if (
        array.ndim == 2
        and array.shape[1] == 1
        and (array.dtype.kind not in "f" or _is_whole(array))
    ):
        array = array[:, 0]
    if array.dtype.kind in "SU":
        array = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        return array.astype(object), None
    if array.dtype.kind == "b":
        return array.astype(object), None
    if array.dtype.kind == "O":
        return _label_objects(array, name), None
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"{name}: labels of type {array.dtype} are neither class numbers nor names. Try {name}.astype(str)"
        )
    return array, None


def _one_column(frame: Any, name: str) -> Any:
    if frame.shape[1] == 1:
        return frame.iloc[:, 0]
    values = frame_numbers(frame, name)
    if frame.shape[1] and ((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all():
        raise ValueError(
            f"{name} has {frame.shape[1]} columns of 0 and 1, one for each class. Try {name}.idxmax(axis=1)"
        )
    return values


def _label_objects(array: np.ndarray, name: str) -> np.ndarray:
    """Return an object array's labels as numbers where all are numbers, else as they are, of one type."""
    _check_labelled(_missing(array), array, name)
    kinds = sorted({_plain_type(value) for value in array.flat})
    if set(kinds) <= {"int", "float"}:
        with suppress(OverflowError):
            return array.astype(np.float64 if "float" in kinds else np.int64)
        raise ValueError(
            f"{name} must hold labels below 2**63 (int64), and it holds {max(array.flat, key=abs)}. "
            f"Try np.unique(np.array({name}, dtype=object), return_inverse=True)[1] for classes, "
            f"or np.array({name}, float) for numbers to predict"
        )
    if len(kinds) > 1:
        raise ValueError(
            f"{name}: labels are of several types ({', '.join(kinds)}). Try [str(label) for label in {name}]"
        )
    if kinds and kinds[0] not in ("str", "bool"):
        told = f"{name}: labels are of type {kinds[0]}: they must be numbers or texts"
        raise ValueError(f"{told}. Try [str(label) for label in {name}]")
    return array


def _check_labelled(missing: np.ndarray, values: Any, name: str) -> None:
    if missing.any():
        first, many = np.flatnonzero(missing)[0], missing.sum()
        value = np.asarray(values, dtype=object).flat[first]
        told = f"{name}: example {first} has no label, but {value} ({many} of {missing.size} have none)"
        raise ValueError(f"{told}. Try leaving these rows out")


def _missing(values: np.ndarray) -> np.ndarray:
    """Return where a value is missing: None, NaN, pandas' NA and NaT."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind != "O":
        return np.isnat(values) if values.dtype.kind in "mM" else np.zeros(values.shape, bool)
    return np.array([_is_missing(value) for value in values.flat], bool).reshape(values.shape)


def is_missing_mark(cell: Any) -> bool:
    """Return whether a cell of a table stands for no value: missing, or a text such as ``?``."""
    return cell.strip() in MISSING_MARKS if isinstance(cell, str) else _is_missing(cell)


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _plain_type(value: Any) -> str:
    for kind, types in {
        "bool": bool | np.bool_,
        "int": int | np.integer,
        "float": float | np.floating,
        "str": str,
    }.items():
        if isinstance(value, types):
            return kind
    return type(value).__name__


def _is_boolean(array: np.ndarray) -> bool:
    return array.dtype.kind == "O" and all(
        isinstance(value, bool | np.bool_) for value in array.flat
    )


def _named(columns: list[tuple[np.ndarray, list | None]], names: tuple[str, ...] | None, name: str):
    """Return class numbers of labels that are texts, booleans or categories, and the names."""
    arrays, orders = zip(*columns, strict=True)
    if names == ():
        told = f"{name}: labels are texts, such as {arrays[0].flat[0]!r}"
        raise ValueError(f"{told}, and classes=() is for numbers to predict. Try classes=None")
    for array in arrays:
        _check_flat(array, name)
    if names is None:
        present = {value for array in arrays for value in array.tolist()}
        order = [value for each in orders for value in each or () if value in present] or sorted(
            present
        )
        order = list(dict.fromkeys([*order, *sorted(present - set(order), key=str)]))
        number, names = {value: k for k, value in enumerate(order)}, tuple(map(str, order))
        keys = [array.tolist() for array in arrays]
    else:
        number, keys = (
            {value: k for k, value in enumerate(names)},
            [list(map(str, array)) for array in arrays],
        )
    for key in keys:
        wrong = next((k for k, value in enumerate(key) if value not in number), None)
        if wrong is not None:
            raise ValueError(
                f"{name}: example {wrong} has the label {key[wrong]!r}, and classes are {', '.join(names)}"
            )
    if len(names) == 1:
        _warn_of_one(names[0])
    return [
        torch.tensor([number[value] for value in key], dtype=torch.int64) for key in keys
    ], names


def _check_flat(array: np.ndarray, name: str) -> None:
    """Raise ValueError for labels in rows that are one-hot, or that are neither classes nor real numbers."""
    if array.ndim == 1:
        return
    is_bits = array.ndim == 2 and array.shape[1] > 1 and ((array == 0) | (array == 1)).all()
    shape = f"labels must be whole class numbers [n], and these have the shape {array.shape} and type {array.dtype}"
    if is_bits and (array.sum(1) == 1).all():
        raise ValueError(
            f"{shape}. They are one-hot rows. Try {name}.argmax(1), or classes=() for targets"
        )
    if array.dtype.kind in "iu" or _is_boolean(array):
        raise ValueError(f"{shape}. Try classes=() if each example has several targets")
    if array.dtype.kind == "O":
        raise ValueError(
            f"{name}: labels of shape {array.shape} are no classes: give one label per example, [n]"
        )


def _is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "iu" or bool(
        np.isfinite(array).all() and (array == np.round(array)).all()
    )


def _are_classes(arrays: list[np.ndarray], name: str) -> bool:
    """Return whether whole labels without named classes are class numbers; ValueError where it could be either."""
    values = np.unique(np.concatenate([array.ravel() for array in arrays]))
    real = any(array.dtype.kind == "f" for array in arrays)
    if len(values) == 0 or (real and any(array.ndim > 1 for array in arrays)):
        return not real
    low, high, n = values[0], values[-1], sum(len(array) for array in arrays)
    if real and (low not in (0, 1) or high - low + 1 != len(values) or len(values) > MANY_CLASSES):
        return False
    numbering = f"{name} = np.unique({name}, return_inverse=True)[1]"
    either = f"Try classes=() if they are numbers to predict, or {numbering} if they are classes"
    if real and low == 1:
        raise ValueError(
            f"{name}: labels are {low:g} to {high:g}, which may be classes or numbers. {either}"
        )
    if low > 1 or (low == 1 and high != len(values)):
        raise ValueError(
            f"{name}: labels are {len(values):,} whole numbers from {low} to {high}, and none is 0. {either}"
        )
    count = int(high) + 1
    if count > MANY_CLASSES and (count > n / 2 or len(values) < count / 2):
        told = f"{name}: labels up to {high} would make {count:,} classes for {n:,} examples"
        raise ValueError(f"{told}. {either}")
    return True


def _numbered(arrays: list[np.ndarray], names: tuple[str, ...] | None, name: str):
    """Return class numbers as int64, and the names of the classes."""
    for array in arrays:
        class_numbers(
            array if array.dtype.kind in "iu" else array.astype(np.int64),
            len(names) if names else None,
        )
    numbers = [np.array(array, dtype=np.int64, order="C") for array in arrays]
    present = np.unique(np.concatenate(numbers))
    if names is None and len(present) and present[0] == 1:
        told = f"labels are 1 to {present[-1]} and none is 0: they name {len(present)} classes, numbered from 0 here"
        logging.getLogger(__name__).warning(
            f"{told}. Try classes=() if they are numbers to predict"
        )
        names, numbers = tuple(map(str, present)), [array - 1 for array in numbers]
    elif names is None and len(present) and len(present) <= present[-1]:
        empty = np.setdiff1d(np.arange(present[-1]), present).tolist()
        listed = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        remedy = f"classes=range({present[-1] + 1}) if these classes exist"
        if len(arrays) == 1:  # training and test labels would be renumbered differently
            remedy = f"{name} = np.unique({name}, return_inverse=True)[1], or {remedy}"
        logging.getLogger(__name__).warning(
            f"{name} has labels from 0 to {present[-1]}, but no example of {len(empty)} of these classes ({listed}). "
            f"Try {remedy}"
        )
    elif names is not None and len(present) and present[0] > 0:
        told = f"no example is of class 0 ({names[0]!r}): labels are numbered from 0"
        logging.getLogger(__name__).warning(f"{told}. Try {name} - 1 if yours begin with 1")
    if names is None:
        names = tuple(map(str, range(1 + int(present.max(initial=-1)))))
    if len(present) == 1:
        _warn_of_one(str(present[0]))
    return [torch.from_numpy(array) for array in numbers], names


def _warn_of_one(label: str) -> None:
    logging.getLogger(__name__).warning(
        f"all labels are {label}: with one class there is nothing to tell apart"
    )


def _is_frame(values: Any) -> bool:
    return (pandas := sys.modules.get("pandas")) is not None and isinstance(
        values, pandas.DataFrame
    )


def _is_series(values: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(
        values, pandas.Series | pandas.Index | pandas.api.extensions.ExtensionArray
    )
