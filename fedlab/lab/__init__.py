"""The lab: everything that people look at, above the engine.

- ``plots``: pictures from tables
- ``widgets``: controls around a live picture, and the dashboard
- ``report``: notebooks run at a setting, checked, and turned into pages
- ``course``: the notebooks, their parameters, and checks of the exercises

Each is imported when it is needed: pictures need Matplotlib, and reports need papermill.

Example:
    >>> from fedlab.lab.plots import curves
    >>> rows = [{"seed": 0, "round": t, "accuracy": 0.4 * t} for t in range(3)]
    >>> curves(rows).alt
    'accuracy against round, 1 seed: accuracy ends at 0.800 (0.800 to 0.800)'
"""
