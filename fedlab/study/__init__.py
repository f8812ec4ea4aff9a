"""Compare methods: baselines, tuning, statistics, heterogeneity, theory."""

from fedlab.study.baselines import centralised, local_only
from fedlab.study.compare import compare
from fedlab.study.heterogeneity import accuracy_by_group, describe, drift
from fedlab.study.statistics import difference, plain_labels, rounds_to, spent, summary, winner
from fedlab.study.theory import Quadratics, average_bound, distance_bound, quadratics
from fedlab.study.tuning import hold_out_clients, validation

__all__ = [
    "Quadratics",
    "accuracy_by_group",
    "average_bound",
    "centralised",
    "compare",
    "describe",
    "difference",
    "distance_bound",
    "drift",
    "hold_out_clients",
    "local_only",
    "plain_labels",
    "quadratics",
    "rounds_to",
    "spent",
    "summary",
    "validation",
    "winner",
]
