"""What travels: fewer numbers, fewer bits a number, and the bytes that they really take."""

from fedlab.core import identity
from fedlab.models.compress.integers import (
    integer_bytes,
    quantization_aware,
    quantize_weights,
    unquantized_weights,
)
from fedlab.models.compress.prune import (
    cubic,
    lottery_ticket,
    magnitude,
    magnitude_per_layer,
    one_shot,
    pruned,
    unit_magnitude,
)
from fedlab.upload.budget import rate_within, top_k_within
from fedlab.upload.chains import chain
from fedlab.upload.feedback import accumulate, error_feedback, lazy, momentum
from fedlab.upload.quantizers import (
    eden,
    kmeans,
    lloyd_max,
    one_bit,
    qsgd,
    quantize,
    scaled_sign,
    sign,
    terngrad,
)
from fedlab.upload.sketch import count_sketch, fetchsgd
from fedlab.upload.transforms import (
    cast,
    lossless,
    power_sgd,
    random_k,
    rotate,
    threshold,
    top_k,
    top_k_per_layer,
)

__all__ = [
    "accumulate",
    "cast",
    "chain",
    "count_sketch",
    "cubic",
    "eden",
    "error_feedback",
    "fetchsgd",
    "identity",
    "integer_bytes",
    "kmeans",
    "lazy",
    "lloyd_max",
    "lossless",
    "lottery_ticket",
    "magnitude",
    "magnitude_per_layer",
    "momentum",
    "one_bit",
    "one_shot",
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
    "terngrad",
    "threshold",
    "top_k",
    "top_k_per_layer",
    "top_k_within",
    "unit_magnitude",
    "unquantized_weights",
]
