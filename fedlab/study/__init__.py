"""Compare methods: baselines, tuning, statistics, heterogeneity, theory."""

from fedlab.study.baselines import centralised, local_only
from fedlab.study.compare import compare
from fedlab.study.heterogeneity import accuracy_by_group, class_counts, drift, label_skew
from fedlab.study.statistics import (
    cumulative_cost,
    difference,
    rounds_to,
    summary,
    text_labels,
    winner,
)
from fedlab.study.theory import Quadratics, average_bound, distance_bound, quadratics
from fedlab.study.tuning import hold_out_clients, hold_out_examples

__all__ = [
    "Quadratics",
    "accuracy_by_group",
    "average_bound",
    "centralised",
    "class_counts",
    "compare",
    "cumulative_cost",
    "difference",
    "distance_bound",
    "drift",
    "hold_out_clients",
    "hold_out_examples",
    "label_skew",
    "local_only",
    "quadratics",
    "rounds_to",
    "summary",
    "text_labels",
    "winner",
]
