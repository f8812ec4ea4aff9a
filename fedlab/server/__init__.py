"""Who takes part, how the rows are folded, and what the server does with the result."""

from fedlab.server.adapters import fedex, fedit, fedsa, flexlora, flora, hetlora, rolora, watched
from fedlab.server.aggregate import majority_vote, mean, weighted_mean
from fedlab.server.algorithms import (
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    feddyn,
    fedexp,
    fednova,
    fedprox,
    fedsgd,
    fedyogi,
    mimelite,
    qfedavg,
    scaffold,
)
from fedlab.server.sampling import by_availability, by_size, day_and_night, holders, poisson, uniform
from fedlab.server.submodels import feddf, federated_dropout, fjord, heterofl

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
    "fedsgd",
    "fedyogi",
    "fjord",
    "flexlora",
    "flora",
    "heterofl",
    "hetlora",
    "holders",
    "majority_vote",
    "mean",
    "mimelite",
    "poisson",
    "qfedavg",
    "rolora",
    "scaffold",
    "uniform",
    "watched",
    "weighted_mean",
]
