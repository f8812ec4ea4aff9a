"""MNIST and Fashion-MNIST: pictures and labels in gzipped IDX files."""

from __future__ import annotations

import gzip
import logging
import math
import string
import struct
from functools import cache
from pathlib import Path

import numpy as np

from fedlab.data.arrays import Arrays, to_arrays
from fedlab.data.cache import TEST_X, TEST_Y, TRAIN_X, TRAIN_Y, folder, locate, missing
from fedlab.data.holdout import hold_out

FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
MAX_GZIP_RATIO = 1032  # gzip packs at most this much: a header that asks for more is damaged


def mnist() -> Arrays:
    """Return MNIST: 60,000 + 10,000 handwritten digits, or the half in the cache."""
    return _load_available("mnist", tuple(string.digits))


def fashion_mnist() -> Arrays:
    """Return Fashion-MNIST: 60,000 + 10,000 articles of clothing, or the half in the cache."""
    return _load_available("fashion_mnist", tuple(FASHION.split(",")))


def read_idx(path: Path) -> np.ndarray:
    """Return the bytes of a gzipped IDX file in its shape.

    The file begins with two zeros, a type, the rank and the sizes, all big-endian.

    Raises:
        ValueError: If the file is not of this format, or is not complete.
    """
    with gzip.open(path) as file:
        head = file.read(4)
        rank = head[3] if head[:3] == b"\0\0\x08" and len(head) > 3 else 0
        sides = file.read(4 * rank)
        shape = struct.unpack(f">{rank}I", sides) if rank and len(sides) == 4 * rank else ()
        size = math.prod(shape) if shape else 0
        packed = path.stat().st_size
        content = file.read(size + 1) if size <= MAX_GZIP_RATIO * packed else b""
    if not shape or len(content) != size:
        raise ValueError(
            f"{path} must be a complete IDX file of bytes (it is damaged, or another file). "
            "Try moving it away and fetching it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _load_available(name: str, classes: tuple[str, ...]) -> Arrays:
    """Return the whole set, or one of its halves if the other is not in the cache."""
    absent = missing(name).keys()
    has_train = not {TRAIN_X, TRAIN_Y} & absent
    has_test = not {TEST_X, TEST_Y} & absent
    return _load(name, classes, folder(name), has_train, has_test)


@cache
def _load(
    name: str, classes: tuple[str, ...], root: Path, has_train: bool, has_test: bool
) -> Arrays:
    def pictures(x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
        return read_idx(locate(name, x))[:, None] / np.float32(255), read_idx(locate(name, y))

    if has_train and has_test:
        return to_arrays(*pictures(TRAIN_X, TRAIN_Y), pictures(TEST_X, TEST_Y), classes, name)
    x, y = pictures(TRAIN_X, TRAIN_Y) if has_train else pictures(TEST_X, TEST_Y)
    present, absent = ("training", "test") if has_train else ("test", "training")
    held_out = hold_out(y, 0.2).numpy()
    logging.getLogger(__name__).warning(
        f"{name}: only its {present} pictures are in {root}, so {(~held_out).sum():,} of them "
        f"train and {held_out.sum():,} test; `python -m fedlab data {name}` fetches the {absent} "
        "pictures"
    )
    test = x[held_out], y[held_out]
    return to_arrays(x[~held_out], y[~held_out], test, classes, f"{name}, {present} pictures only")
