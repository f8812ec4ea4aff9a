"""Data sets by name, and the data of an experiment under a seed.

``digits`` and ``breast_cancer`` come inside scikit-learn, the texts ``docs`` inside the installed
packages: they need no network. The others lie in the download cache (``fedlab.data.cache``).
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from inspect import signature

import numpy as np
from torch import Tensor

from fedlab.core import FederatedDataset
from fedlab.core.repeats import check_repeatable
from fedlab.core.validate import check_whole
from fedlab.data.arrays import Arrays, divide
from fedlab.data.partition import Split
from fedlab.data.sources.bundled import breast_cancer, digits
from fedlab.data.sources.cifar10 import cifar10
from fedlab.data.sources.documentation import docs
from fedlab.data.sources.femnist import femnist
from fedlab.data.sources.idx import fashion_mnist, mnist
from fedlab.data.sources.published_texts import ag_news, banking77, shakespeare
from fedlab.data.text import Texts
from fedlab.data.text_subsets import take_largest_owners, take_per_class

_SOURCES: dict[str, Callable[[], Arrays]] = {
    "digits": digits,
    "breast_cancer": breast_cancer,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}
_TEXT_SOURCES: dict[str, Callable[[], Texts]] = {
    "docs": docs,
    "banking77": banking77,
    "ag_news": ag_news,
    "shakespeare": shakespeare,
}


def load(
    name: str, clients: int | None = 10, split: Split | None = None, seed: int = 0
) -> FederatedDataset:
    """Load a data set by name and divide it over clients.

    ``digits``: 1,797 handwritten digits of 8 x 8 pixels in 0..1, 10 classes. ``breast_cancer``: 569
    tumours with 30 measurements, standardised by the training set, 2 classes. A stratified fifth is
    the test set: always the same one.

    The download cache holds pictures ``[n, channels, height, width]`` in 0..1, not standardised,
    because no client knows the mean over all clients. ``mnist`` and ``fashion_mnist`` have 60,000
    training and 10,000 test pictures. If only one of the two halves is in the cache, a stratified
    fifth of it is the test set, and a log line says so. ``cifar10`` has 50,000 and 10,000 pictures.

    ``femnist`` has 62 characters. Its writers are the clients: ``clients`` of them are drawn under
    ``seed`` (None: all 3,400). A tenth of each writer's characters is the test set. A ``split``
    pools all writers first.

    An Experiment takes a function of the seed: ``functools.partial(load, name, clients, split)``.

    Args:
        name: The name of the set.
        clients: The number of clients.
        split: The division over clients (default ``iid()``).
        seed: The seed of the split.

    Returns:
        The dataset. Calls for the same set share its tensors (except femnist): do not write to
        them.

    Raises:
        FileNotFoundError: If files are not in the cache; the message says how to fetch them.
        ValueError: If an argument does not fit.

    Example:
        >>> from fedlab.data import dirichlet
        >>> data = load("digits", clients=5, split=dirichlet(0.1))
        >>> data.num_clients, list(data.x.shape), list(data.test[0].shape)
        (5, [1437, 64], [360, 64])
    """
    if name == "femnist":
        return femnist(clients, split, seed)
    if name not in _SOURCES:
        close = get_close_matches(name, _SOURCES, n=1)
        hint = f"{close[0]!r}" if close else "federate(x, y) for your own data"
        raise ValueError(
            f"name={name!r} must be one of {', '.join(_SOURCES)}, femnist (load_texts loads "
            f"texts; synthetic and fcube are functions). Try {hint}"
        )
    if clients is None:
        raise ValueError(
            f"clients=None must be a number ({name} has no clients of its own). Try clients=10"
        )
    return divide(_SOURCES[name](), clients, split, seed)


def load_texts(name: str, per_class: int | None = None, owners: int | None = None) -> Texts:
    """Load a set of texts by name, whole or in part.

    ``docs``: paragraphs of 12 to 80 words out of the docstrings of the installed packages and of
    Python's own library, 14 topics. The owner of a paragraph is its subpackage, such as
    scipy.stats. The set needs no network, and is the same wherever the same versions are installed
    (``data/README.md`` has counts and checksums). A stratified fifth is the test set.

    The download cache holds ``banking77`` (customers' questions to a bank, 77 intents; Casanueva et
    al. 2020), ``ag_news`` (the beginnings of 120,000 articles, 4 classes; Zhang et al. 2015) and
    ``shakespeare`` (speeches of his plays, whose owners are the speakers; no classes, and a fifth
    of each speaker's speeches is the test set).

    Args:
        name: The name of the set.
        per_class: The number of texts of each class, always the same ones; None for all texts.
        owners: The number of owners, with the highest number of texts; None for all owners.

    Returns:
        The texts, with a test set.

    Raises:
        FileNotFoundError: If files are not in the cache; the message says how to fetch them.
        ValueError: If an argument does not fit.
    """
    if name not in _TEXT_SOURCES:
        raise ValueError(
            f"name={name!r} must be one of {', '.join(_TEXT_SOURCES)} (there is no other set of "
            "texts). Try read_texts for your own"
        )
    texts = _TEXT_SOURCES[name]()
    counts = {"per_class": per_class, "owners": owners}
    check_whole(1, **{key: value for key, value in counts.items() if value is not None})
    if per_class is not None:
        texts = take_per_class(texts, per_class)
    return texts if owners is None else take_largest_owners(texts, owners)


def for_seed(data: FederatedDataset | Callable, seed: int) -> FederatedDataset:
    """Return the data of an experiment under a seed.

    A dataset is returned as it is; a function of the seed is called. A ``functools.partial`` with a
    parameter ``seed`` gets it by name, so that it never lands in another parameter, as it would in
    ``partial(load, "digits", 10)``. A user's function is called twice for its first seed.

    Raises:
        ValueError: If the seed is set already, or if a second call returns other data.

    Example:
        >>> for_seed(partial(load, "digits", 10), seed=3).num_clients
        10
    """
    if not callable(data):
        return data
    made = _call(data, seed)
    if isinstance(made, FederatedDataset):
        check_repeatable("data", data, made, lambda: _call(data, seed), _arrays_of)
    return made


def _call(data: Callable, seed: int) -> FederatedDataset:
    """Call a function of the seed, with the seed by name if it is a partial that has one."""
    if isinstance(data, partial) and "seed" in data.keywords:
        raise ValueError(
            f"data must be a function of the seed, and seed={data.keywords['seed']!r} is set "
            "already. Try leaving it out, or calling the function: "
            f"data={data.func.__name__}(...)"
        )
    if isinstance(data, partial) and "seed" in signature(data).parameters:
        return data(seed=seed)
    return data(seed)


def _arrays_of(data: FederatedDataset) -> list[np.ndarray | Tensor]:
    return [*data.parts, *(data.test_parts or ()), data.x, data.y, *data.test]
