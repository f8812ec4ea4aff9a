"""Run experiments: rounds, evaluation, storage."""

from fedlab.engine.dispatch import Begun, begin_rounds, some, with_epochs
from fedlab.engine.evaluation import evaluate, evaluate_clients, evaluate_each, summarise_clients
from fedlab.engine.lockstep import alike, due, scores_after, unknown
from fedlab.engine.rounds import (
    absorb,
    check_model,
    commit,
    fold,
    is_paid,
    mean_loss,
    receive,
    record,
    train,
    train_apart,
)
from fedlab.engine.run import Variants, drive, finish, run, stream, variants
from fedlab.engine.run_state import Diverged, Run, dataset, find_device, initial, local_of, tables
from fedlab.engine.start import begin, begin_all, draw_cohort
from fedlab.engine.storage.description import plain
from fedlab.engine.storage.files import folder_at

__all__ = [
    "Begun",
    "Diverged",
    "Run",
    "Variants",
    "absorb",
    "alike",
    "begin",
    "begin_all",
    "begin_rounds",
    "check_model",
    "commit",
    "dataset",
    "draw_cohort",
    "drive",
    "due",
    "evaluate",
    "evaluate_clients",
    "evaluate_each",
    "find_device",
    "finish",
    "fold",
    "folder_at",
    "initial",
    "is_paid",
    "local_of",
    "mean_loss",
    "plain",
    "receive",
    "record",
    "run",
    "scores_after",
    "some",
    "stream",
    "summarise_clients",
    "tables",
    "train",
    "train_apart",
    "unknown",
    "variants",
    "with_epochs",
]
