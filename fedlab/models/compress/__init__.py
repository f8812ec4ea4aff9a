"""Smaller models: pruning and integer weights."""

from fedlab.models.compress.integers import (
    FakeQuantized,
    aware,
    fake_quantize,
    integer_bytes,
    left_in_floats,
    quantization_aware,
    quantize_weights,
)
from fedlab.models.compress.prune import (
    Choose,
    Schedule,
    at_once,
    cubic,
    lottery_ticket,
    magnitude,
    magnitude_per_layer,
    pruned,
    unit_magnitude,
)

__all__ = [
    "Choose",
    "FakeQuantized",
    "Schedule",
    "at_once",
    "aware",
    "cubic",
    "fake_quantize",
    "integer_bytes",
    "left_in_floats",
    "lottery_ticket",
    "magnitude",
    "magnitude_per_layer",
    "pruned",
    "quantization_aware",
    "quantize_weights",
    "unit_magnitude",
]
