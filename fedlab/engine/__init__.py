"""Run experiments: rounds, evaluation, and runs on disk.

``run`` takes an experiment to its end, ``stream`` stops after each round, and ``evaluate`` scores a
model. A ``Run`` is one experiment under one seed: its model ``w``, the algorithm's ``state``, the
``traffic`` so far and the tables.

The life of one round, in ``run.py``::

    server                                               clients of the cohort
    ------                                               ---------------------
    draw_cohort             the clients of the round
    checked_terms           what the algorithm adds
                            to each client's loss
    dispatch                plan the batches
             -- model, compressed by the download -->
                                                         train: local steps, all clients
                                                         and runs as rows of one matrix
             <-- updates, compressed by the upload --
    receive_updates         decode, check for NaN
    charge_round            count the bytes; an
                            exhausted budget ends here
    record_round            a row for the tables
    aggregate_and_step      contributions -> aggregate
                            -> the algorithm's step
    apply_round             the next w and state
    evaluate_runs           scores, every few rounds

Each step is taken for all runs before the next one. If one of them diverges, none has advanced.

Read in this order:

1. ``run_state.py``: the ``Run``, its first model, its result.
2. ``start.py``, with ``fit.py`` and ``memory.py``: everything that is checked before round 1.
3. ``dispatch.py``, with ``objective.py``: the first half of a round.
4. ``training.py``, with ``lockstep.py``: cohorts of several runs are trained at once.
5. ``rounds.py``: the second half of a round.
6. ``scores.py`` and ``evaluation.py``: when models are evaluated, and how.
7. ``run.py``: the loop. ``factory.py`` makes experiments with defaults.
8. ``storage``: checkpoints and results in folders, with a guide of its own.

``fedlab.system`` and ``fedlab.study`` build other loops from the same steps: a simulated clock,
edge servers, gossip, training alone.

Example:
    >>> from fedlab.core import Local
    >>> from fedlab.data import load
    >>> from fedlab.engine import run
    >>> from fedlab.engine.factory import experiment
    >>> from fedlab.models import mlp
    >>> digits = load("digits", clients=10)
    >>> study = experiment(digits, mlp(digits, hidden=()), Local(lr=0.1), cohort_size=5, rounds=2)
    >>> result = run(study)
    >>> result.rounds[["round", "clients", "bytes_up"]].values.tolist()
    [[0, 0, 0], [1, 5, 13760], [2, 5, 13760]]
"""

from fedlab.engine.evaluation import evaluate, evaluate_clients, evaluate_models, summarise_clients
from fedlab.engine.run import Interrupted, Variants, run, run_all, stream, variants
from fedlab.engine.run_state import Diverged, Run, collect_result, initial
from fedlab.engine.storage import Checkpoint, describe, load_result, save_result

__all__ = [
    "Checkpoint",
    "Diverged",
    "Interrupted",
    "Run",
    "Variants",
    "collect_result",
    "describe",
    "evaluate",
    "evaluate_clients",
    "evaluate_models",
    "initial",
    "load_result",
    "run",
    "run_all",
    "save_result",
    "stream",
    "summarise_clients",
    "variants",
]
