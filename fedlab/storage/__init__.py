"""Runs that last: experiments in words, checkpoints, results in a folder."""

from fedlab.storage.checkpoint import Checkpoint, client_tables
from fedlab.storage.description import describe
from fedlab.storage.results import load, save

__all__ = ["Checkpoint", "client_tables", "describe", "load", "save"]
