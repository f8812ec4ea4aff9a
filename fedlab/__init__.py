"""A workbench for federated learning with large models.

Data flows one way: ``data`` (examples, and who holds them) → ``client`` (local training) → ``upload``
(compress, pack) → ``server`` (aggregate, step) → tables → ``lab`` (pictures, panels, reports).  ``records`` names what
travels between them.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - who runs an older one shall read why it fails
    raise ImportError(
        f"fedlab needs Python 3.11 or later, and this is {sys.version.split()[0]}: "
        "make the virtual environment with a newer one, for example `make report PYTHON=python3.12`"
    )

__version__ = "0.1.0"
