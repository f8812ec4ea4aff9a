"""What travels: fewer numbers, fewer bits a number, and the bytes that they really take."""

from fedlab.records import whole
from fedlab.upload.budget import rate_within, top_k_within
from fedlab.upload.integers import integer_bytes, left_in_floats, quantization_aware, quantize_weights
from fedlab.upload.prune import (
    at_once,
    cubic,
    lottery_ticket,
    magnitude,
    magnitude_per_layer,
    pruned,
    unit_magnitude,
)
from fedlab.upload.quantizers import eden, kmeans, lloyd_max, one_bit, qsgd, quantize, scaled_sign, sign, terngrad
from fedlab.upload.sketch import count_sketch, fetchsgd
from fedlab.upload.transforms import (
    cast,
    chain,
    entropy,
    error_feedback,
    lazy,
    momentum,
    power_sgd,
    random_k,
    rotate,
    skip,
    threshold,
    top_k,
    top_k_per_layer,
)

__all__ = [
    "at_once",
    "cast",
    "chain",
    "count_sketch",
    "cubic",
    "eden",
    "entropy",
    "error_feedback",
    "fetchsgd",
    "integer_bytes",
    "kmeans",
    "lazy",
    "left_in_floats",
    "lloyd_max",
    "lottery_ticket",
    "magnitude",
    "magnitude_per_layer",
    "momentum",
    "one_bit",
    "power_sgd",
    "pruned",
    "qsgd",
    "quantization_aware",
    "quantize",
    "quantize_weights",
    "random_k",
    "rate_within",
    "rotate",
    "scaled_sign",
    "sign",
    "skip",
    "terngrad",
    "threshold",
    "top_k",
    "top_k_per_layer",
    "top_k_within",
    "unit_magnitude",
    "whole",
]
