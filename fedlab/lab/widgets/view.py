"""The picture of a panel, as the page shows it."""

from __future__ import annotations

import anywidget
import traitlets

from fedlab.lab.plots.figure import SCRIPT, STYLE, figure_html
from fedlab.lab.plots.picture import Picture


class PictureView(anywidget.AnyWidget):
    """A picture that answers the pointer.

    A run that the reader pins or takes out stays pinned or out when the picture is drawn again.

    Attributes:
        html: The picture as part of a page; empty if there is none.
    """

    _esm = SCRIPT
    _css = STYLE

    html = traitlets.Unicode("").tag(sync=True)

    def __init__(self):
        super().__init__(layout={"min_width": "0", "max_width": "100%"})

    def show(self, picture: Picture) -> None:
        """Show a picture."""
        self.html = figure_html(picture)
