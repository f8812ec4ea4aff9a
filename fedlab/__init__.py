"""A workbench for federated learning with large models.

Federated learning trains one model over many clients whose data never leaves them. In a round the
server sends its model to a cohort of clients, each client trains it on its own examples, and the
server aggregates the updates that come back.

Example:
    >>> import fedlab as fl
    >>> digits = fl.load("digits", 10)
    >>> study = fl.experiment(digits, fl.mlp(digits), fl.Local(lr=0.1), rounds=3)
    >>> fl.run(study).rounds["round"].tolist()
    [0, 1, 2, 3]

Rooms, from the top floor to the bottom; a room imports only from rooms above it:

- ``core``: datasets, tasks, algorithms, messages, experiments; seeds and parameters
- ``data``: data sets by name, and ways to divide them over clients
- ``models``: models, adapters of large models, subnetworks, pruning
- ``client``: local training, by a readable engine and a fast one that agree
- ``upload``: compression of updates, down to the bytes on the wire
- ``server``: sampling, aggregation, algorithms
- ``engine``: rounds, evaluation, storage of runs
- ``system``: devices, links and clocks; edges and gossip; the planner
- ``study``: comparison, tuning, baselines, statistics, theory
- ``lab``: plots, panels, reports, the course

Glossary:

- client: holder of examples, such as a phone or a hospital; ``N`` clients
- cohort: the ``m`` clients that take part in a round
- model: its trainable parameters as one row ``w [d]``
- update: ``delta [m, d]``, the trained model of each client minus the model it started from
- weight: the number by which an update counts in the aggregate
- aggregate: a function that combines the updates of a cohort into one row ``[d]``
- mask: 1 for parameters that a client has or sends, 0 for the others
- control variate: a correction of each client's gradient, as in SCAFFOLD
- error feedback: a memory of what compression left out, sent later
- staleness: the number of server steps between a model's dispatch and its update's arrival
- shuffle key: a random number per example that fixes the order of a client's batches
- non-finite: infinite or not a number
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older Python should fail with a reason
    raise ImportError(
        f"fedlab needs Python 3.11 or later, and this is {sys.version.split()[0]}: "
        "make the virtual environment with a newer one, for example `make report PYTHON=python3.12`"
    )

import warnings
from importlib import metadata

import lazy_loader

__version__ = "0.1.0"

# Names are imported when they are first used: `import fedlab` loads neither PyTorch nor pandas.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    _other_version = metadata.version("fedlab")
except metadata.PackageNotFoundError:
    pass
else:
    warnings.warn(
        f"another package with the import name fedlab is installed here: fedlab {_other_version} "
        "of PyPI (SMILELab). The two share a folder. Try `pip uninstall fedlab`, then reinstall "
        "fedlab-workbench, or use two environments",
        stacklevel=2,
    )
