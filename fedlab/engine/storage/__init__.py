"""Keep what lasts: experiments in words, checkpoints, results in a folder."""

from fedlab.engine.storage.checkpoint import Checkpoint, client_tables
from fedlab.engine.storage.description import describe
from fedlab.engine.storage.results import load_result, save_result

__all__ = ["Checkpoint", "client_tables", "describe", "load_result", "save_result"]
