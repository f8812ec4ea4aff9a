"""Examples, and who holds them."""

from fedlab.data.cache import fetch
from fedlab.data.datasets import federate, load
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
from fedlab.data.skew import contrast, noise, permute_labels, rotate, scale
from fedlab.data.stream import replay
from fedlab.data.synthetic import fcube, synthetic
from fedlab.data.tabular import tabular
from fedlab.data.text import load_texts, read_texts

__all__ = [
    "Split",
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
