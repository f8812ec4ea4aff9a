"""Widgets of the notebooks: live panels, predict-first, export, and the dashboard.

A panel puts controls around a picture: move one, and the training really runs again. Read in this
order:

- ``controls`` and ``predict``: what a reader may change, and say in advance
- ``scene``: the frames of a run, from which a picture is drawn; ``compare``: B minus A
- ``panel``: the public class. Its ``page`` holds the widgets, its ``runner`` trains in a thread,
  and its ``output`` is shown by a saved notebook
- ``permalink`` and ``link``: a setting as one line; ``export``: its code, command, files and report
- ``states`` and ``grid``: settings that a report shows; a live report computes a grid of them
- ``idle``: controls that do nothing at a setting
- ``composer`` and ``dashboard``: one page to compose, run and compare experiments; ``serve`` opens
  it in a browser
- ``waiting``, ``pictures`` and ``blame``: details of the page

Example:
    >>> from fedlab.lab.widgets import Panel, Scene, latest, slider
    >>> slider(10, 1, 100, help="of 100 clients").kind
    'int'
    >>> latest([{"round": 0, "accuracy": 0.1}, {"round": 1, "accuracy": 0.8}])
    {'round': 1, 'accuracy': 0.8}
"""

import lazy_loader

# Names are imported when they are first used: the dashboard's server needs no PyTorch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "controls": ["choice", "slider"],
        "dashboard": ["Dashboard"],
        "panel": ["Panel"],
        "predict": ["Prediction"],
        "scene": ["Scene", "latest", "rounds_of"],
    },
)
