"""Examples, and who holds them."""

from fedlab.data.datasets import load
from fedlab.data.partition import Split, dirichlet, iid

__all__ = ["Split", "dirichlet", "iid", "load"]
