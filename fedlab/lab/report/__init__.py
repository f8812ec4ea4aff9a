"""Reports: notebooks run at a setting, are checked, and become pages that need no network.

``make report`` calls ``make.main``. Read in this order:

- ``metrics``: ``record`` a number in a notebook, and read it back
- ``answer``: sentences that answer the notebook's question, made from its numbers
- ``jobs``: the requested reports; a ``Report`` is a notebook at a setting
- ``live``: the budget of a live report, whose reader moves panels among packed states
- ``sources``: hashes that tell if a report must run again, or only its page be drawn again
- ``execute`` and ``progress``: notebooks run through papermill
- ``validate``: faults of an executed notebook
- ``write``, ``render``, ``outputs``, ``panels``, ``markdown``, ``index``, ``frame``: pages
- ``committed``: the numbers in ``reports/metrics``
- ``files``: reading and safe replacement of files
- ``make``: the command

Example:
    >>> accuracy = record("accuracy", [0.88, 0.90], expected=(0.85, 1), headline=True)
    >>> accuracy.holds
    True
    >>> print(accuracy)
    accuracy: 0.890 (0.880 to 0.900 over 2 seeds), expected 0.85 to 1: holds
"""

from fedlab.lab.report.answer import amount, answer, direction, percent, points
from fedlab.lab.report.metrics import Metric, record

__all__ = ["Metric", "amount", "answer", "direction", "percent", "points", "record"]
