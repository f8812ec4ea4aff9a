"""CIFAR-10: 50,000 + 10,000 colour photographs, in pickles of Python 2."""

from __future__ import annotations

import io
import pickle
import tarfile
from functools import cache
from pathlib import Path

import numpy as np

from fedlab.data.arrays import Arrays, to_arrays
from fedlab.data.cache import folder, locate

CLASSES = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"


def cifar10() -> Arrays:
    """Return CIFAR-10: 50,000 + 10,000 photographs of 32 x 32 pixels in 10 classes."""
    return _load(folder("cifar10"))


@cache
def _load(root: Path) -> Arrays:
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    with tarfile.open(locate("cifar10", "cifar-10-python.tar.gz")) as archive:
        batches = [
            read_batch(archive.extractfile(f"cifar-10-batches-py/{file}").read()) for file in files
        ]
    x, y = (np.concatenate(pieces) for pieces in zip(*batches[:5], strict=True))
    return to_arrays(x, y, batches[5], tuple(CLASSES.split(",")), "cifar10")


def read_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures ``[n, 3, 32, 32]`` in 0..1 and labels ``[n]`` of a pickled batch."""
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    return batch["data"].reshape(-1, 3, 32, 32) / np.float32(255), np.array(batch["labels"])


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of arrays and containers; it refuses all other objects, which could run code."""

    def find_class(self, module: str, name: str):
        known = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if f"{module}.{name}" not in known:
            raise pickle.UnpicklingError(
                f"the pickle must hold arrays only (it asks for {module}.{name}, which pictures do "
                "not need). Try moving the file away and fetching it again"
            )
        return known[f"{module}.{name}"]
