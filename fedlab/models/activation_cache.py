"""What frozen layers make of an example, computed once and kept: over epochs, rounds, runs and, in a folder, for good."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from fedlab.core import FederatedDataset, Task, params
from fedlab.core.rng import seeded
from fedlab.models.adapters import block_input, blocks, head_only
from fedlab.models.language import LanguageModel, ModelFactory, trainable_part

TOKENS_AT_ONCE = 1500  # of a pass through the frozen layers: about what a processor's cache holds

IN_MEMORY = 2e9  # bytes up to which activations stay there

OF_A_FILE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "transformers_version",
)  # of a config, and not of what it computes


def cache_activations(
    task: Task,
    data: FederatedDataset,
    *,
    dtype: torch.dtype = torch.bfloat16,
    folder: str | Path | None = None,
    memory_limit: float = IN_MEMORY,
) -> tuple[Task, FederatedDataset]:
    """The same study, of which only the part of the model that trains has to run: its frozen first blocks have run once.

    The examples are then what came into the first block that trains, ``[n, L, width + 1]`` of ``dtype``, whose last number
    says where there are tokens; where the head alone trains, what it reads, ``[n, width]`` in full precision.  The row, and
    where it starts, stay as they are.  In bfloat16 activations are rounded to 8 bits: float32 is exact, and twice as large.

    A ``folder`` keeps them for the next time, too.  More than ``memory_limit`` bytes go to a file, which ends with the process
    where no folder is given.  A study whose first block trains comes back as it is.
    Raises OSError where there is no room for them on the disk.
    """
    above, start = trainable_part(task)
    if start == 0:
        return task, data
    model, test = task.model.model, data.test
    asked = _unlike(data.x)
    exact = _check_same(task, data.x[asked], above, start)
    each = memory_limit / max(1, len(data.x) + len(test[0]))  # of the bytes, for an example
    x, x_test = (
        _kept(model, start, part, dtype, folder, each * len(part)) for part in (data.x, test[0])
    )
    kept = x[asked].float() if start is None else x[asked, : exact.shape[1]].float()
    _check_near(model, exact, kept, min(dtype.itemsize, model.network.dtype.itemsize))
    return above, replace(data, x=x, test=(x_test, test[1]))


def _unlike(x: Tensor) -> list[int]:
    """Return the numbers of a short, a middle and a long text: pads stand in two of them."""
    order = (x >= 0).sum(1).argsort(stable=True).tolist()
    return sorted({order[0], order[len(order) // 2], order[-1]})


@torch.no_grad()
def _check_same(task: Task, x: Tensor, above: Task, start: int | None) -> Tensor:
    """Return what the upper part reads of the texts; ValueError where it then gives something else than the whole."""
    with seeded(0, "kept"):
        w = params.flatten(task.model())
    module, there = task.module(w), (x >= 0)[:, : int((x >= 0).any(0).sum())]
    if start is None:
        exact = module.pooled(x).float()
    else:
        hidden = block_input(
            blocks(module.backbone.network)[start], lambda: module.backbone(x)
        ).float()
        if hidden.shape[:2] != there.shape:
            raise ValueError(_refusal(task.model.model))
        exact = torch.cat([hidden * there[..., None], there[..., None].to(hidden)], 2)
    whole, upper = module(x), above.forward(w, exact)
    if task.model.outputs is None:  # what stands at pads is nobody's
        whole, upper = whole[there], upper[there]
    _check_near(task.model.model, whole, upper, task.model.model.network.dtype.itemsize)
    return exact


def _check_near(model: LanguageModel, exact: Tensor, other: Tensor, bytes_each: int) -> None:
    """ValueError for numbers of so many bytes that differ by more than they are rounded."""
    bound = (1e-4 if bytes_each >= 4 else 0.02) * exact.abs().max().item()
    if exact.shape != other.shape or not torch.allclose(exact, other, atol=bound, rtol=0):
        raise ValueError(_refusal(model))


def _refusal(model: LanguageModel) -> str:
    return f"{model.name}: its last blocks give something else without the first ones; train it without kept activations"


_KEPT: WeakKeyDictionary[LanguageModel, dict] = WeakKeyDictionary()


def _kept(
    model: LanguageModel,
    start: int | None,
    x: Tensor,
    dtype: torch.dtype,
    folder,
    memory_limit: float,
) -> Tensor:
    """Computed once a process for the same tensor of token numbers."""
    dtype = torch.float32 if start is None else dtype  # what a head reads is small
    with _ONE_AT_A_TIME:
        mine = _KEPT.setdefault(model, {}).setdefault(
            (start, dtype, str(folder)), WeakIdKeyDictionary()
        )
        if x not in mine:
            mine[x] = _hidden(model, start, x, dtype, folder, memory_limit)
        return mine[x]


_ONE_AT_A_TIME = threading.RLock()  # a panel trains beside the notebook's own cells


@torch.no_grad()
def _hidden(
    model: LanguageModel,
    start: int | None,
    x: Tensor,
    dtype: torch.dtype,
    folder,
    memory_limit: float,
) -> Tensor:
    """Read from the folder, or compute, what a head reads, ``[n, width]``, or a block ``start``, ``[n, L, width + 1]``."""
    shape = (
        (len(x), model.width) if start is None else (*x.shape, model.network.config.hidden_size + 1)
    )
    size, fill = int(np.prod(shape)) * dtype.itemsize, _features if start is None else _fill
    if folder is None and size <= memory_limit:
        return fill(model, start, x, torch.zeros(shape, dtype=dtype))
    if folder is None:
        file, name = tempfile.mkstemp(
            prefix="fedlab-", dir=_room(Path(tempfile.gettempdir()), size)
        )
        os.close(file)
        kept = _mapped(Path(name), shape, dtype)
        try:
            os.unlink(name)  # what is mapped stays until it is not needed, however the process ends
        except PermissionError:  # Windows
            weakref.finalize(kept, Path(name).unlink, missing_ok=True)
        return fill(model, start, x, kept)
    path = Path(folder) / f"{_digest(model, start, x, dtype)}.activations"
    if (
        not path.exists() or path.stat().st_size != size
    ):  # half copied: the rest would be read as zeros
        part = (
            Path(_room(path.parent, size))
            / f"{path.name}.{os.getpid()}-{threading.get_ident()}.part"
        )
        try:
            fill(model, start, x, _mapped(part, shape, dtype))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return _mapped(path, shape, dtype)


def _features(model: LanguageModel, start: None, x: Tensor, out: Tensor) -> Tensor:
    """Run all blocks over all texts."""
    whole = ModelFactory(model, head_only(), 2)()
    for rows in _batches(x):
        out[rows] = whole.pooled(x[rows])
    return out


def _fill(model: LanguageModel, start: int, x: Tensor, out: Tensor) -> Tensor:
    """Run the first blocks over all texts."""
    whole = ModelFactory(model, head_only(), 2)()
    block = blocks(whole.backbone.network)[start]
    for rows in _batches(x):
        hidden = block_input(block, lambda rows=rows: whole.backbone(x[rows]))
        there = x[rows, : hidden.shape[1]] >= 0
        out[rows, : hidden.shape[1], :-1] = (hidden * there[..., None]).to(out.dtype)
        out[rows, : hidden.shape[1], -1] = there.to(out.dtype)
    return out


def _batches(x: Tensor) -> Iterator[Tensor]:
    """Numbers of texts of about one length, so that few pads are computed; with a progress bar after two seconds."""
    from tqdm.auto import tqdm

    lengths = (x >= 0).sum(1)
    order = lengths.argsort(stable=True)
    with tqdm(total=len(x), unit="text", delay=2, leave=False, desc="frozen layers") as bar:
        while len(order):
            many = max(1, TOKENS_AT_ONCE // max(1, int(lengths[order[-1]])))
            yield order[-many:]  # the longest first: what is left goes faster than the bar says
            bar.update(len(order[-many:]))
            order = order[:-many]


def _mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor that lies in a file."""
    return torch.from_file(str(path), shared=True, size=int(np.prod(shape)), dtype=dtype).view(
        shape
    )


def _room(folder: Path, size: int) -> Path:
    """The folder, once it is sure that a file of ``size`` bytes goes in."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OSError(
            f"{folder} cannot hold activations ({error.strerror}): give cache_activations another folder"
        ) from error
    if size > free:
        told = (
            f"the activations take {size / 1e9:,.1f} GB, and {folder} has {free / 1e9:,.1f} GB free"
        )
        raise OSError(f"{told}: give cache_activations another folder, or fewer or shorter texts")
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder} cannot be written: give cache_activations another folder")
    return folder


def _digest(model: LanguageModel, start: int, x: Tensor, dtype: torch.dtype) -> str:
    """What the activations depend on."""
    config = {
        key: value for key, value in model.network.config.to_dict().items() if key not in OF_A_FILE
    }
    digest = hashlib.sha256(f"{start} {dtype} {list(x.shape)} {sorted(config.items())}".encode())
    for p in (*model.network.parameters(), x):
        digest.update(p.detach().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
