"""Data sets, and their division over clients.

Read in this order:

1. ``datasets``: ``load`` and ``load_texts`` load data sets by name. Readers of each format stand in
   ``sources``. ``cache`` and ``download`` fetch published files, only when you ask for it.
2. ``federate``, ``tabular`` and ``read_texts`` take your own arrays, tables and texts. ``convert``
   turns values of any kind into tensors; ``encoding``, ``columns`` and ``moments`` serve
   ``tabular``; ``text``, ``text_tables``, ``text_files`` and ``text_subsets`` serve texts.
3. ``partition`` divides examples over clients, with the help of ``dealing``. ``holdout`` holds out
   test sets, and ``arrays`` brings both together.
4. ``skew`` changes the features or labels of clients, ``stream`` keeps examples of earlier data,
   and ``synthetic`` draws data from a formula.

Example:
    >>> data = load("digits", clients=10, split=dirichlet(0.1), seed=0)
    >>> data.num_clients, int(data.sizes.sum()), len(data.test[1])
    (10, 1437, 360)
    >>> rotated = rotate(data, degrees=20)
    >>> rotated.x.shape == data.x.shape
    True
"""

from fedlab.data.cache import fetch
from fedlab.data.datasets import load, load_texts
from fedlab.data.federate import federate
from fedlab.data.partition import (
    Split,
    classes_per_client,
    dirichlet,
    dirichlet_equal_sizes,
    iid,
    natural,
    quantity_dirichlet,
    quantity_lognormal,
    shards,
)
from fedlab.data.read_texts import read_texts
from fedlab.data.skew import contrast, noise, permute_labels, rotate, scale
from fedlab.data.stream import replay
from fedlab.data.synthetic import fcube, synthetic
from fedlab.data.tabular import tabular
from fedlab.data.text import HeldOut, Texts

__all__ = [
    "HeldOut",
    "Split",
    "Texts",
    "classes_per_client",
    "contrast",
    "dirichlet",
    "dirichlet_equal_sizes",
    "fcube",
    "federate",
    "fetch",
    "iid",
    "load",
    "load_texts",
    "natural",
    "noise",
    "permute_labels",
    "quantity_dirichlet",
    "quantity_lognormal",
    "read_texts",
    "replay",
    "rotate",
    "scale",
    "shards",
    "synthetic",
    "tabular",
]
