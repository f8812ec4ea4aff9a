"""Who takes part, how the rows are folded, and what the server does with the result."""

from fedlab.server.aggregate import weighted_mean
from fedlab.server.algorithms import fedavg
from fedlab.server.sampling import uniform

__all__ = ["fedavg", "uniform", "weighted_mean"]
