"""A cache of the outputs of frozen layers: computed once for epochs, rounds and runs."""

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
from fedlab.models.adapters import head_only
from fedlab.models.blocks import block_input, blocks
from fedlab.models.language import LanguageModel, ModelFactory, trainable_part

TOKENS_AT_ONCE = 1500  # of a pass through the frozen layers: about the size of a processor's cache

IN_MEMORY = 2e9  # bytes of activations that stay in memory

# Entries of a config that describe its file, not the computation.
FILE_ENTRIES = ("_name_or_path", "architectures", "dtype", "transformers_version")


def cache_activations(
    task: Task,
    data: FederatedDataset,
    *,
    dtype: torch.dtype = torch.bfloat16,
    folder: str | Path | None = None,
    memory_limit: float = IN_MEMORY,
) -> tuple[Task, FederatedDataset]:
    """Run the frozen first blocks of a model once, and return the rest of the study.

    The new examples are the inputs of the first block that trains. Parameters, and their initial
    values, stay the same. A study whose first block trains is returned as it is.

    Args:
        task: A task of ``classifier`` or ``language_modelling``.
        data: Texts as token numbers ``[n, L]``.
        dtype: Data type of cached block inputs. bfloat16 rounds them to 8 bits; float32 is exact,
            and twice as large.
        folder: Folder that keeps the activations for the next time.
        memory_limit: Bytes of activations that stay in memory. More go to a file, which ends with
            the process unless ``folder`` is set.

    Returns:
        The task of the blocks that train, and the data with activations ``[n, L, width + 1]``,
        whose last feature is 1 for a token and 0 for padding. If the head alone trains, the
        examples are the head's inputs ``[n, width]`` in float32.

    Raises:
        OSError: If the disk has no room for the activations.
        ValueError: If the task is none of a language model, or its last blocks compute something
            else without the first ones.

    Example:
        >>> from fedlab.data import read_texts
        >>> from fedlab.models import classifier, text_classification, tiny
        >>> rows = [{"text": f"{k} is {k % 2}", "kind": "ab"[k % 2]} for k in range(20)]
        >>> texts = read_texts(rows, label="kind")
        >>> model = tiny("bert", texts.texts, width=16, depth=1, vocabulary=300)
        >>> data = text_classification(model, texts, clients=2)
        >>> head, features = cache_activations(classifier(model, texts.classes), data)
        >>> tuple(features.x.shape)
        (16, 16)
    """
    part, start = trainable_part(task)
    if start == 0:
        return task, data
    model, test = task.model.model, data.test
    sample = _sample(data.x)
    exact = _check_part(task, data.x[sample], part, start)
    share = memory_limit / max(1, len(data.x) + len(test[0]))  # bytes per example
    x, x_test = (
        _cached(model, start, rows, dtype, folder, share * len(rows)) for rows in (data.x, test[0])
    )
    cached = x[sample].float() if start is None else x[sample, : exact.shape[1]].float()
    _check_close(model, exact, cached, min(dtype.itemsize, model.network.dtype.itemsize))
    return part, replace(data, x=x, test=(x_test, test[1]))


def _sample(x: Tensor) -> list[int]:
    """Return the numbers of a short, a middle and a long text; two of them have padding."""
    order = (x >= 0).sum(1).argsort(stable=True).tolist()
    return sorted({order[0], order[len(order) // 2], order[-1]})


@torch.no_grad()
def _check_part(task: Task, x: Tensor, part: Task, start: int | None) -> Tensor:
    """Return the activations of a few texts, after checking that the part computes the whole."""
    with seeded(0, "kept"):
        w = params.flatten(task.model())
    module, is_token = task.module(w), (x >= 0)[:, : int((x >= 0).any(0).sum())]
    if start is None:
        exact = module.pooled(x).float()
    else:
        block = blocks(module.backbone.network)[start]
        hidden = block_input(block, lambda: module.backbone(x)).float()
        if hidden.shape[:2] != is_token.shape:
            raise ValueError(_refusal(task.model.model))
        exact = torch.cat([hidden * is_token[..., None], is_token[..., None].to(hidden)], 2)
    whole, upper = module(x), part.forward(w, exact)
    if task.model.outputs is None:  # outputs at padding are not used
        whole, upper = whole[is_token], upper[is_token]
    _check_close(task.model.model, whole, upper, task.model.model.network.dtype.itemsize)
    return exact


def _check_close(model: LanguageModel, exact: Tensor, close: Tensor, itemsize: int) -> None:
    """Check that two results differ by no more than the rounding of numbers of so many bytes."""
    bound = (1e-4 if itemsize >= 4 else 0.02) * exact.abs().max().item()
    if exact.shape != close.shape or not torch.allclose(exact, close, atol=bound, rtol=0):
        raise ValueError(_refusal(model))


def _refusal(model: LanguageModel) -> str:
    return (
        f"{model.name} must compute the same without its first blocks (its last blocks give "
        "another result). Try to train it without cache_activations"
    )


_CACHE: WeakKeyDictionary[LanguageModel, dict] = WeakKeyDictionary()

_LOCK = threading.RLock()  # a panel trains beside the notebook's own cells


def _cached(
    model: LanguageModel,
    start: int | None,
    x: Tensor,
    dtype: torch.dtype,
    folder: str | Path | None,
    memory_limit: float,
) -> Tensor:
    """Return activations, computed once per process for the same tensor of token numbers."""
    dtype = torch.float32 if start is None else dtype  # the inputs of a head are small
    with _LOCK:
        caches = _CACHE.setdefault(model, {})
        cache = caches.setdefault((start, dtype, str(folder)), WeakIdKeyDictionary())
        if x not in cache:
            cache[x] = _activations(model, start, x, dtype, folder, memory_limit)
        return cache[x]


@torch.no_grad()
def _activations(
    model: LanguageModel,
    start: int | None,
    x: Tensor,
    dtype: torch.dtype,
    folder: str | Path | None,
    memory_limit: float,
) -> Tensor:
    """Compute the head's inputs ``[n, width]`` or a block's ``[n, L, width + 1]``, or read them."""
    shape = (
        (len(x), model.width) if start is None else (*x.shape, model.network.config.hidden_size + 1)
    )
    size, fill = int(np.prod(shape)) * dtype.itemsize, _fill_pooled if start is None else _fill
    if folder is None and size <= memory_limit:
        return fill(model, start, x, torch.zeros(shape, dtype=dtype))
    if folder is None:
        return fill(model, start, x, _map_unnamed(shape, dtype, size))
    path = Path(folder) / f"{_digest(model, start, x, dtype)}.activations"
    # The rest of a half-copied file would be read as zeros.
    if not path.exists() or path.stat().st_size != size:
        writer = f"{os.getpid()}-{threading.get_ident()}"
        part = Path(_check_room(path.parent, size)) / f"{path.name}.{writer}.part"
        try:
            fill(model, start, x, _map_file(part, shape, dtype))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return _map_file(path, shape, dtype)


def _fill_pooled(model: LanguageModel, start: None, x: Tensor, out: Tensor) -> Tensor:
    """Write the head's inputs into ``out``, by running all blocks over all texts."""
    module = ModelFactory(model, head_only(), 2)()
    for rows in _batches(x):
        out[rows] = module.pooled(x[rows])
    return out


def _fill(model: LanguageModel, start: int, x: Tensor, out: Tensor) -> Tensor:
    """Write the inputs of block ``start`` into ``out``, by running the blocks before it."""
    module = ModelFactory(model, head_only(), 2)()
    block = blocks(module.backbone.network)[start]
    for rows in _batches(x):
        hidden = block_input(block, lambda rows=rows: module.backbone(x[rows]))
        is_token = x[rows, : hidden.shape[1]] >= 0
        out[rows, : hidden.shape[1], :-1] = (hidden * is_token[..., None]).to(out.dtype)
        out[rows, : hidden.shape[1], -1] = is_token.to(out.dtype)
    return out


def _batches(x: Tensor) -> Iterator[Tensor]:
    """Yield the numbers of texts of similar length, so that little padding is computed.

    A progress bar appears after two seconds. The longest texts come first, so that the rest is
    faster than the bar predicts.
    """
    from tqdm.auto import tqdm

    lengths = (x >= 0).sum(1)
    order = lengths.argsort(stable=True)
    with tqdm(total=len(x), unit="text", delay=2, leave=False, desc="frozen layers") as bar:
        while len(order):
            size = max(1, TOKENS_AT_ONCE // max(1, int(lengths[order[-1]])))
            yield order[-size:]
            bar.update(len(order[-size:]))
            order = order[:-size]


def _map_unnamed(shape: tuple[int, ...], dtype: torch.dtype, size: int) -> Tensor:
    """Return a tensor in a temporary file that disappears with it."""
    room = _check_room(Path(tempfile.gettempdir()), size)
    file, name = tempfile.mkstemp(prefix="fedlab-", dir=room)
    os.close(file)
    mapped = _map_file(Path(name), shape, dtype)
    try:
        os.unlink(name)  # the mapping stays as long as it is used, however the process ends
    except PermissionError:  # Windows
        weakref.finalize(mapped, Path(name).unlink, missing_ok=True)
    return mapped


def _map_file(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor whose memory is a file."""
    size = int(np.prod(shape))
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)


def _check_room(folder: Path, size: int) -> Path:
    """Return the folder after checking that a file of ``size`` bytes fits in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OSError(
            f"folder={str(folder)!r} must hold activations ({error.strerror}). Try another folder"
        ) from error
    if size > free:
        raise OSError(
            f"folder={str(folder)!r} must have room for {size / 1e9:,.1f} GB of activations (it "
            f"has {free / 1e9:,.1f} GB free). Try another folder, or fewer or shorter texts"
        )
    if not os.access(folder, os.W_OK):
        raise OSError(
            f"folder={str(folder)!r} must be writable (activations are stored in it). Try another "
            "folder"
        )
    return folder


def _digest(model: LanguageModel, start: int | None, x: Tensor, dtype: torch.dtype) -> str:
    """Return a checksum of everything that the activations depend on."""
    config = model.network.config.to_dict()
    entries = sorted((key, value) for key, value in config.items() if key not in FILE_ENTRIES)
    digest = hashlib.sha256(f"{start} {dtype} {list(x.shape)} {entries}".encode())
    for p in (*model.network.parameters(), x):
        digest.update(p.detach().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
