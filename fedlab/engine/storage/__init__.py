"""Runs that last: experiments in words, checkpoints, results in a folder."""

from fedlab.engine.storage.checkpoint import Checkpoint, client_tables
from fedlab.engine.storage.description import describe
from fedlab.engine.storage.results import load, save

__all__ = ["Checkpoint", "client_tables", "describe", "load", "save"]
