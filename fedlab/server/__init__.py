"""The server's part of a round: samplers, aggregates and algorithms.

An ``Experiment`` takes one of each: ``sample=uniform(10)``, ``aggregate=weighted_mean``,
``algorithm=fedavg()``. Read in this order:

- ``sampling``: clients that take part in a round, such as ``uniform``, ``by_size``, ``poisson``
- ``aggregate``: means and votes of updates
- ``algorithms``: FedAvg, FedProx, SCAFFOLD and other corrections of what clients minimise
- ``server_steps``: momentum, adaptive steps and other weights on the server
- ``building_blocks``: parts for algorithms of your own
- ``partial_models``: clients that train parts of a model, averaged in ``overlap``
- ``distillation``: clients with different models, and a server that learns from their predictions
- ``factors``, ``adapter_averaging``, ``aggregation_error``: averages of LoRA adapters, and how
  exact they are; ``adapter_steps`` has their common parts

Example:
    >>> import fedlab as fl
    >>> digits = fl.load("digits", 10)
    >>> parts = fl.Local(lr=0.1), scaffold(), weighted_mean, uniform(5)
    >>> study = fl.Experiment(digits, fl.mlp(digits), *parts, rounds=2)
    >>> len(fl.run(study).rounds)  # before the first round, and after each
    3
"""

from fedlab.server.adapter_averaging import (
    fedex,
    fedit,
    fedsa,
    fedsa_models,
    flexlora,
    flora,
    hetlora,
    rolora,
)
from fedlab.server.aggregate import majority_vote, mean, weighted_mean
from fedlab.server.aggregation_error import with_aggregation_error
from fedlab.server.algorithms import (
    fedavg,
    feddyn,
    fedprox,
    fedsgd,
    mimelite,
    scaffold,
)
from fedlab.server.distillation import feddf
from fedlab.server.factors import (
    mean_factors,
    mean_product,
    nearest_factors,
    product_residual,
    stack_factors,
)
from fedlab.server.partial_models import federated_dropout, fjord, heterofl
from fedlab.server.sampling import (
    by_availability,
    by_size,
    day_and_night,
    poisson,
    uniform,
    with_examples,
)
from fedlab.server.server_steps import (
    fedadagrad,
    fedadam,
    fedavgm,
    fedexp,
    fednova,
    fedyogi,
    qfedavg,
)

__all__ = [
    "by_availability",
    "by_size",
    "day_and_night",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "feddf",
    "feddyn",
    "federated_dropout",
    "fedex",
    "fedexp",
    "fedit",
    "fednova",
    "fedprox",
    "fedsa",
    "fedsa_models",
    "fedsgd",
    "fedyogi",
    "fjord",
    "flexlora",
    "flora",
    "heterofl",
    "hetlora",
    "majority_vote",
    "mean",
    "mean_factors",
    "mean_product",
    "mimelite",
    "nearest_factors",
    "poisson",
    "product_residual",
    "qfedavg",
    "rolora",
    "scaffold",
    "stack_factors",
    "uniform",
    "weighted_mean",
    "with_aggregation_error",
    "with_examples",
]
