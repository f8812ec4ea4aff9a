"""Federated algorithms, each the paper's formula in four small functions (see ``records.Algorithm``)."""

from fedlab.records import Algorithm, Terms


def fedavg(server_lr: float = 1.0) -> Algorithm:
    """Federated averaging: ``w <- w + server_lr * sum_i (n_i / n) delta_i``.  McMahan et al. 2017, Algorithm 1.

    ``server_lr`` is 1 in the paper: the new model is then the mean of the clients' models.
    """
    if not server_lr > 0:
        raise ValueError(f"server_lr={server_lr}: a learning rate is above 0; the paper's is 1")

    def init(d, num_clients):
        return None

    def terms(state, cohort):
        return Terms()

    def rows(updates, cohort):
        return updates.delta, updates.num_examples

    def step(w, state, cohort, updates, mean):
        return w + server_lr * mean, state

    return Algorithm(init, terms, rows, step)
