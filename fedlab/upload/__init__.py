"""Compression of updates: fewer numbers, fewer bits per number, and real bytes.

A ``Transform`` compresses the updates of a cohort, ``Experiment(upload=...)``; most also compress
the model on its way down, ``download=...``. Combine them with ``chain``, and give biased ones a
memory with ``error_feedback``. Read in this order:

- ``transforms``: fewer or other numbers, such as ``top_k``, ``random_k``, ``power_sgd``, ``rotate``
- ``quantizers``: fewer bits per number, such as ``qsgd``, ``quantize``, ``sign``, ``eden``
- ``feedback``: transforms that remember, such as ``error_feedback``, ``momentum``, ``lazy``
- ``chains``: the order in which steps may follow
- ``sketch``: count sketches and FetchSGD
- ``budget``: the rate that a budget allows
- ``encodings``, ``codes``, ``codec``: what a receiver needs to undo each step, down to the bytes
- ``wire``, ``dense``: whole messages as bytes, and errors for hostile ones
- ``traffic``: bytes of a run, each way

Compression of the model itself, such as ``pruned`` and ``quantize_weights``, comes from
``fedlab.models.compress`` and can be imported here too.

Example:
    >>> import numpy as np
    >>> import torch
    >>> from fedlab.core import Cohort, Message
    >>> from fedlab.upload import wire
    >>> upload = error_feedback(chain(top_k(0.01), qsgd(5)))
    >>> shapes = {"weight": torch.Size((100, 100))}
    >>> x = torch.linspace(-1, 1, 10_000)[None]  # the update of one client
    >>> client = Cohort(np.array([0]), round=1, seed=0, num_clients=1)
    >>> message, _ = upload.apply(Message(x, shapes), upload.init(x[0], shapes, 1), client)
    >>> message.delta.count_nonzero().item()
    100
    >>> len(wire.pack(message))  # bytes, instead of 40,088
    210
"""

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
