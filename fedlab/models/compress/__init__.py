"""Smaller models: pruning and integer weights."""

from fedlab.models.compress.integers import (
    FakeQuantized,
    build_quantization_aware,
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
    "build_quantization_aware",
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
