"""Run experiments: rounds, evaluation, storage."""

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
