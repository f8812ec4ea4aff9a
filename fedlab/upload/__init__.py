"""What travels: fewer numbers, fewer bits a number, and the bytes that they really take."""

from fedlab.records import whole
from fedlab.upload.budget import rate_within, top_k_within
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
    "cast",
    "chain",
    "count_sketch",
    "eden",
    "entropy",
    "error_feedback",
    "fetchsgd",
    "kmeans",
    "lazy",
    "lloyd_max",
    "momentum",
    "one_bit",
    "power_sgd",
    "qsgd",
    "quantize",
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
    "whole",
]
