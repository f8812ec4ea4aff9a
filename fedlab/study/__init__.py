"""Compare methods fairly: equal budgets, tuned rates, paired seeds, and intervals.

Read in this order:

- ``compare``: run variants of one experiment side by side
- ``statistics``: ``summary``, ``difference`` and ``winner`` over paired seeds
- ``run_table``: what a run has cost by each round, and rounds to a target
- ``tuning``: the search for each variant's best rate, called by ``compare(..., tune=...)``
- ``hold_out``: examples or whole clients kept out of training
- ``baselines``: all examples in one place, and each client by itself
- ``heterogeneity``: label skew, and drift of the clients' gradients
- ``theory``: quadratic clients with rounds in closed form, and bounds of their error

Example:
    >>> import fedlab as fl
    >>> digits = fl.load("digits", clients=6)
    >>> study = fl.experiment(digits, fl.mlp(digits), fl.Local(0.1), rounds=1)
    >>> methods = {"FedAvg": fl.fedavg(), "hardly moves": fl.fedavg(server_lr=0.01)}
    >>> result = compare(study, algorithm=methods, seeds=3)
    >>> winner(result).winner
    'FedAvg'
    >>> summary(result).columns[:4].tolist()
    ['accuracy', 'low', 'high', 'difference']
"""

from fedlab.study.baselines import centralised, local_only
from fedlab.study.compare import compare
from fedlab.study.heterogeneity import Drift, accuracy_by_group, class_counts, drift, label_skew
from fedlab.study.hold_out import hold_out_clients, hold_out_examples
from fedlab.study.run_table import cumulative_cost, rounds_to, text_labels
from fedlab.study.statistics import Difference, Verdict, difference, summary, winner
from fedlab.study.theory import Quadratics, average_bound, distance_bound, quadratics

__all__ = [
    "Difference",
    "Drift",
    "Quadratics",
    "Verdict",
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
