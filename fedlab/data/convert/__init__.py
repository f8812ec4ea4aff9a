"""Conversion of arrays, frames, lists, pictures and sparse matrices into tensors.

``examples`` and ``frames`` convert features, ``labels`` and ``classes`` labels, ``owners`` the
owners of examples; ``cells`` has what they share. Values that cannot be used are refused with one
line that names the remedy.

Example:
    >>> to_examples([[0.5, 1.0], [2.0, 3.0]]).dtype
    torch.float32
    >>> (labels,), classes = to_labels([["ham", "spam", "ham"]])
    >>> labels.tolist(), classes
    ([0, 1, 0], ('ham', 'spam'))
"""

from fedlab.data.convert.cells import is_missing_mark
from fedlab.data.convert.examples import to_examples, warn_of_channels
from fedlab.data.convert.frames import check_columns, check_index, frame_numbers
from fedlab.data.convert.labels import to_labels
from fedlab.data.convert.owners import to_owners

__all__ = [
    "check_columns",
    "check_index",
    "frame_numbers",
    "is_missing_mark",
    "to_examples",
    "to_labels",
    "to_owners",
    "warn_of_channels",
]
