"""Instant checks of the exercises, one file per notebook.

A check tries an answer on cases drawn anew each time, and says what is wrong with it. If a known
mistake (a "slip") would give the same results, the check names the mistake.

Example:
    >>> from fedlab.lab.course import checks
    >>> print(checks.bytes_per_round(lambda parameters, clients: 4 * parameters * clients))
    ✗ Not yet: that is one way only: the model goes down and the update comes up.
"""

from fedlab.lab.course.checks.async_incremental import forgetting, stale_step
from fedlab.lab.course.checks.billions import bytes_held, seconds_to_send
from fedlab.lab.course.checks.communication import bits_per_place, sign_round
from fedlab.lab.course.checks.convergence import resting_point, scaffold_by_hand
from fedlab.lab.course.checks.devices import never_used, round_seconds
from fedlab.lab.course.checks.edge import best_cut, metropolis
from fedlab.lab.course.checks.federated_averaging import clients_seen, one_step
from fedlab.lab.course.checks.large_models import adapter_bytes, audit, moved
from fedlab.lab.course.checks.model_compression import overlap_mean, parameters_left
from fedlab.lab.course.checks.non_iid import effective_classes, three_classes
from fedlab.lab.course.checks.start_here import bytes_per_round, server_step

__all__ = [
    "adapter_bytes",
    "audit",
    "best_cut",
    "bits_per_place",
    "bytes_held",
    "bytes_per_round",
    "clients_seen",
    "effective_classes",
    "forgetting",
    "metropolis",
    "moved",
    "never_used",
    "one_step",
    "overlap_mean",
    "parameters_left",
    "resting_point",
    "round_seconds",
    "scaffold_by_hand",
    "seconds_to_send",
    "server_step",
    "sign_round",
    "stale_step",
    "three_classes",
]
