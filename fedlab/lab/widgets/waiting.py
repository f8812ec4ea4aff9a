"""A page that answers its reader while the kernel runs cells, or says that it waits."""

from __future__ import annotations

import html
from collections.abc import Iterable

import ipywidgets as widgets

# A kernel that runs cells cannot say that a reader waits, so the page does. Each act of the reader
# sends a newer number, and the kernel writes that number back once it has served the act.
_SCRIPT = """
const box = this.closest('.fedlab-panel'), part = name => box.querySelector(name);
const lost = () => box.matches('.jupyter-widgets-disconnected');
let asked = 0, shown = null, said = '';
const look = () => {
  const line = part('.fedlab-status'), heard = part('.fedlab-heard');
  if (!line || !heard) return;
  if (line.textContent !== shown) said = line.textContent;
  shown = lost() ? 'lost  the kernel was restarted: run this cell again'
    : Number(heard.textContent) < asked ? 'waiting  for the kernel to answer' : said;
  if (line.textContent !== shown) line.textContent = shown;
};
const ask = () => setTimeout(() => {
  const field = part('.fedlab-asked input');
  if (!field || lost()) return;
  field.value = asked = Date.now();
  field.dispatchEvent(new Event('change', {bubbles: true}));
  setTimeout(look, 100);
});
const on = (kind, where, act) =>
  box.addEventListener(kind, event => event.target.closest(where) && act());
on('change', ':not(.fedlab-asked) > :is(input, select)', ask);
on('click', 'button', ask);
on('keydown', '.noUi-handle', ask);
on('pointerdown', '.noUi-target', () => addEventListener('pointerup', ask, {once: true}));
const changes = {subtree: true, childList: true, attributes: true, attributeFilter: ['class']};
new MutationObserver(look).observe(box, changes);
"""

# JupyterLab marks widgets without a kernel: the status line says it, and once is enough.
_STYLE = """\
.fedlab-asked, .fedlab-heard, .fedlab-watch { display: none }
 .fedlab-words { white-space: normal !important; line-height: 1.2 !important }
 .fedlab-panel .jupyter-widgets-disconnected::before { content: none }"""


def with_waiting_line(parts: Iterable[widgets.Widget]) -> widgets.VBox:
    """Return a column of widgets that says "waiting" until the kernel serves its reader.

    The words appear in the line of class ``fedlab-status``.

    Args:
        parts: The widgets, from top to bottom.
    """
    asked, heard = widgets.Text(continuous_update=False), widgets.HTML()
    asked.add_class("fedlab-asked")
    heard.add_class("fedlab-heard")
    widgets.dlink((asked, "value"), (heard, "value"))
    watch = widgets.HTML(f'<style onload="{html.escape(_SCRIPT)}">{_STYLE}</style>')
    watch.add_class("fedlab-watch")
    column = widgets.VBox([*parts, asked, heard, watch])
    column.add_class("fedlab-panel")
    return column


def answer_while_cells_run(widget: widgets.Widget) -> None:
    """Let a widget, and all inside it, answer its reader while cells run.

    ipykernel 7.4 hands an act of the reader to the thread that wrote to the widget last. A cell
    made the widget, so that thread is the one of the cells. Without this, the first act would wait
    until the last cell has ended.

    Args:
        widget: The outermost widget.
    """
    widget.comm._reply_subshell_for = None
    for child in getattr(widget, "children", ()):
        answer_while_cells_run(child)
