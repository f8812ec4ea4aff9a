"""Keep runs and results on disk, exactly.

Two kinds of folders, each with an ``experiment.json`` that says in words what was run:

- a **checkpoint** (``checkpoint.py``) holds a run that is not finished, as
  ``run(study, checkpoint="folder")`` keeps it. Killed at any moment and called again, the run
  continues to the same numbers, bit for bit.
- a **result** (``results.py``) holds models and tables. ``save_result`` writes it, and
  ``load_result`` reads it back, bit for bit.

Read in this order:

1. ``results.py``, with ``csv_tables.py``: the simpler of the two.
2. ``checkpoint.py``, with ``packing.py`` (a state as JSON and tensors), ``identity.py`` (is it the
   same experiment?) and ``tensors.py`` (the file of the state).
3. ``description.py``: an experiment in plain values. Each kind of value has its module:
   ``code.py``, ``objects.py``, ``networks.py``, ``compounds.py``, ``checksums.py``,
   ``provenance.py``.
4. ``folders.py``, ``locks.py``, ``files.py``: folders that hold nothing else and have one writer,
   files that are written completely or not at all.

Example:
    >>> from fedlab.engine import load_result, run, save_result
    >>> from fedlab.engine.storage import describe
"""

from fedlab.engine.storage.checkpoint import Checkpoint
from fedlab.engine.storage.description import describe
from fedlab.engine.storage.packing import client_tables
from fedlab.engine.storage.results import load_result, save_result

__all__ = ["Checkpoint", "client_tables", "describe", "load_result", "save_result"]
