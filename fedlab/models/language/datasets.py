"""Texts as federated data, read by a model's tokenizer: to classify, or to predict tokens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedlab.core import FederatedDataset
from fedlab.data import Split
from fedlab.data.arrays import Arrays, divide
from fedlab.data.text import Texts
from fedlab.models.language.load import LanguageModel
from fedlab.models.language.tokens import IGNORED, make_targets, pad_rows, token_rows, tokenize

# A panel's thread shall get the same cached tensors as the notebook's own cells.
READ_LOCK = threading.RLock()


def text_classification(
    model: LanguageModel,
    texts: Texts,
    clients: int | None = 50,
    split: Split | None = None,
    seed: int = 0,
    *,
    length: int | None = None,
) -> FederatedDataset:
    """Tokenize texts with their classes, and divide them over clients.

    Calls with the same model, texts and length share their tensors: do not write to them.

    Args:
        model: The model whose tokenizer is used.
        texts: Texts with classes, of ``load_texts`` or ``read_texts``.
        clients: Number of clients; None: one client per owner of texts.
        split: Rule that divides texts over clients. Default: by owner, or ``iid()`` over
            ``clients``.
        seed: Seed of the split.
        length: Largest number of tokens per text. Default: as many as the model takes.

    Returns:
        Token numbers ``[n, L]``, -1 for padding, and class numbers ``[n]``, for ``classifier``.

    Raises:
        ValueError: If the texts have no classes, or a text has no token.

    Example:
        >>> from fedlab.data import read_texts
        >>> from fedlab.models import tiny
        >>> rows = [{"text": f"{k} is {k % 2}", "kind": "ab"[k % 2]} for k in range(20)]
        >>> texts = read_texts(rows, label="kind")
        >>> model = tiny("bert", texts.texts, width=16, depth=1, vocabulary=300)
        >>> data = text_classification(model, texts, clients=3)
        >>> data.num_clients, data.classes
        (3, ('a', 'b'))
    """
    if not texts.classes:
        raise ValueError(
            f"texts={texts.name} must have classes (there is nothing to classify). Try "
            "token_prediction, for language modelling"
        )
    with READ_LOCK:
        tensors = _read(model, texts, length)
    return _divide(texts, tensors, clients, split, seed, texts.classes)


def token_prediction(
    model: LanguageModel,
    texts: Texts,
    clients: int | None = None,
    split: Split | None = None,
    seed: int = 0,
    *,
    length: int | None = None,
) -> FederatedDataset:
    """Tokenize texts with the tokens to predict, and divide them over clients.

    A decoder predicts every next token. An encoder predicts the 15 % of tokens that are masked;
    special tokens, such as [CLS], are never masked. An encoder-decoder predicts the second half
    of a text from the first.

    Differs: an encoder's masked tokens are drawn once and always replaced by the mask token,
    where Devlin et al. 2019 draw anew in each epoch.

    Args:
        model: The model whose tokenizer is used.
        texts: The texts; their classes, if any, serve the split alone.
        clients: Number of clients. Default: one client per owner of texts.
        split: Rule that divides texts over clients. Default: by owner, or ``iid()`` over
            ``clients``.
        seed: Seed of the split.
        length: Largest number of tokens per text. Default: as many as the model takes.

    Returns:
        Token numbers ``[n, L]``, -1 for padding, and labels ``[n, L]``, -100 for tokens that are
        not predicted, for ``language_modelling``. Texts without a token to predict are left out
        after the split, and a warning is logged with their number.

    Example:
        >>> from fedlab.data import read_texts
        >>> from fedlab.models import tiny
        >>> texts = read_texts([{"text": f"{k} and {k + 1}"} for k in range(8)])
        >>> model = tiny("gpt2", texts.texts, width=16, depth=1, vocabulary=300)
        >>> data = token_prediction(model, texts, clients=2)
        >>> bool((data.y[0, 0] == data.x[0, 1]).all())  # the label is the next token
        True
    """
    with READ_LOCK:
        tensors = _predicted(model, texts, length)
    return divide_targets(texts, tensors, clients, split, seed)


def divide_targets(
    texts: Texts,
    tensors: tuple[Tensor, ...],
    clients: int | None,
    split: Split | None,
    seed: int,
) -> FederatedDataset:
    """Divide all texts over clients, and leave out the texts without a token to predict.

    Args:
        texts: All texts.
        tensors: ``keep_targets`` of the training texts, and of the test texts.
        clients: Number of clients; None: one client per owner of texts.
        split: Rule that divides texts.
        seed: Seed of the split.
    """
    x, y, has_target, x_test, y_test, test_has_target = tensors
    labels = texts.labels if texts.classes else np.full((len(has_target), 1), IGNORED)
    every = torch.from_numpy(labels)
    everything = (every, every, test_has_target, test_has_target)
    data = _divide(texts, everything, clients, split, seed, ())
    parts = _renumber(data.parts, has_target)
    test_parts = data.test_parts
    if test_parts is not None:
        test_parts = _renumber(test_parts, test_has_target)
    return replace(data, x=x, y=y, parts=parts, test=(x_test, y_test), test_parts=test_parts)


def keep_targets(x: Tensor, y: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the texts that have a token to predict, and log how many have none.

    Args:
        x: Token numbers ``[n, L]``.
        y: Labels ``[n, L]``, -100 for tokens that are not predicted.
        name: Name of the texts in messages.

    Returns:
        The remaining inputs and labels, and a mask ``[n]`` of the texts that remain.

    Raises:
        ValueError: If no text remains.
    """
    has_target = (y != IGNORED).any(1)
    count = len(has_target) - int(has_target.sum())
    if count == len(has_target):
        raise ValueError(
            f"{name} must have tokens to predict (none of {count:,} has any). Try longer texts, "
            "or a larger length"
        )
    if count:
        logging.getLogger(__name__).warning(
            f"{count:,} of {len(has_target):,} {name} have no token to predict, and were left out"
        )
        x, y = x[has_target], y[has_target]
    return x, y, has_target


@lru_cache(maxsize=8)
def _read(model: LanguageModel, texts: Texts, length: int | None) -> tuple[Tensor, ...]:
    """Return inputs and classes of the training texts and of the test texts."""
    x = tokenize(model, [*texts.texts, *texts.test[0]], length)
    n = len(texts.texts)
    return x[:n], torch.from_numpy(texts.labels), x[n:], torch.from_numpy(texts.test[1])


@lru_cache(maxsize=8)
def _predicted(model: LanguageModel, texts: Texts, length: int | None) -> tuple[Tensor, ...]:
    """Return ``keep_targets`` of the training texts and of the test texts."""
    rows = pad_rows(token_rows(model, [*texts.texts, *texts.test[0]], length))
    x, y = make_targets(model, rows)
    n = len(texts.texts)
    train = keep_targets(x[:n], y[:n], f"texts of {texts.name}")
    return *train, *keep_targets(x[n:], y[n:], f"test texts of {texts.name}")


def _divide(
    texts: Texts,
    tensors: tuple[Tensor, ...],
    clients: int | None,
    split: Split | None,
    seed: int,
    classes: Sequence[str],
) -> FederatedDataset:
    """Divide examples over clients: by owner, if neither ``clients`` nor ``split`` is set."""
    x, y, *test = tensors
    owners = (texts.owner, texts.test.owner) if clients is None and split is None else None
    clients = len(set(texts.owner.tolist())) if owners else clients
    arrays = Arrays(x, y, tuple(test), tuple(classes), texts.name)
    return divide(arrays, clients, split, seed, owners)


def _renumber(parts: Sequence[np.ndarray], stays: Tensor) -> list[np.ndarray]:
    """Return the clients' examples after only the examples of the mask ``[n]`` stay."""
    number, mask = stays.cumsum(0).numpy() - 1, stays.numpy()
    return [number[part[mask[part]]] for part in parts]
