"""Smaller models: pruning during federated training, and integer weights.

Read ``prune`` first: criteria (``magnitude``), schedules (``cubic``) and the algorithms that use
them (``pruned``, ``lottery_ticket``). Then ``integers``: ``quantization_aware`` training and
``quantize_weights`` after it. A smaller message is a matter of ``fedlab.upload``.

Example:
    >>> schedule = cubic(0.9, start=5, end=40)
    >>> schedule(5), schedule(40)
    (0.0, 0.9)
"""

from fedlab.models.compress.integers import (
    FakeQuantized,
    fake_quantize,
    integer_bytes,
    quantization_aware,
    quantize_weights,
    unquantized_weights,
)
from fedlab.models.compress.prune import (
    Criterion,
    Schedule,
    cubic,
    lottery_ticket,
    magnitude,
    magnitude_per_layer,
    one_shot,
    pruned,
    unit_magnitude,
)

__all__ = [
    "Criterion",
    "FakeQuantized",
    "Schedule",
    "cubic",
    "fake_quantize",
    "integer_bytes",
    "lottery_ticket",
    "magnitude",
    "magnitude_per_layer",
    "one_shot",
    "pruned",
    "quantization_aware",
    "quantize_weights",
    "unit_magnitude",
    "unquantized_weights",
]
