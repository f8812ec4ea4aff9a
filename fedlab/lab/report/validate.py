"""Whether an executed notebook is well: errors, warnings, panels that were not driven, numbers out of their range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedlab.lab.report import metrics

if TYPE_CHECKING:
    from nbformat import NotebookNode


PANEL = "application/vnd.fedlab.panel+json"  # where a panel says what was done to it

CHECK = "application/vnd.fedlab.check+json"  # where an exercise's check says what it found

WIDGET = "application/vnd.jupyter.widget-view+json"


def drop_progress_bars(executed: NotebookNode) -> None:
    """The bars of tqdm are widgets too, with nothing to move; what is left of one is a line like ``20%|##``."""
    models = _widget_models(executed)
    bars = {
        name
        for name, model in models.items()
        for child in model.get("state", {}).get("children", ())
        if models.get(child.removeprefix("IPY_MODEL_"), {})
        .get("model_name", "")
        .endswith("ProgressModel")
    }
    for cell in executed.cells:
        if "outputs" in cell:
            cell.outputs = [
                one
                for one in cell.outputs
                if one.get("data", {}).get(WIDGET, {}).get("model_id") not in bars
            ]


def _widget_models(executed: NotebookNode) -> dict[str, Any]:
    return (
        executed.metadata.get("widgets", {})
        .get("application/vnd.jupyter.widget-state+json", {})
        .get("state", {})
    )


def unjudge(executed: NotebookNode) -> None:
    """Expected ranges speak of the default parameters: under others nothing is expected, and nothing judged."""
    for cell in executed.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if metrics.MIME in data:
                data.update(metrics.bundle(data[metrics.MIME] | {"expected": None, "pass": None}))


def faults(executed: NotebookNode) -> list[str]:
    """What is wrong with a notebook, though it ran to its end."""
    found = []
    for cell in executed.cells:
        at = f"cell [{cell.get('execution_count')}]: "
        found += [at + said(output) for output in outputs(cell, "error")]
        found += [at + "wrote a warning" for output in outputs(cell, "stream") if _warns(output)]
        found += [
            at + fault
            for output in cell.get("outputs", ())
            if (fault := _panel_fault(output.get("data", {})))
        ]
    found += _widget_errors(executed)
    try:
        recorded = metrics.read(executed)
    except ValueError as error:
        return [*found, str(error)]
    return found + [metrics.in_words(metric) for metric in recorded if metric["pass"] is False]


def outputs(cell: NotebookNode, kind: str) -> list[NotebookNode]:
    return [output for output in cell.get("outputs", ()) if output.output_type == kind]


def said(output: Mapping[str, Any]) -> str:
    """An error in one line."""
    return f"{output['ename']}: {output['evalue']}".strip().splitlines()[0]


def _warns(output: NotebookNode) -> bool:
    return output.name == "stderr" and "Warning" in output.text


def _panel_fault(data: Mapping[str, Any]) -> str:
    """A widget must have been moved: two states or more, each done, each with a picture of its own."""
    if PANEL not in data:
        return "a widget was never driven; wrap it in a Panel" if WIDGET in data else ""
    states = data[PANEL]["states"]
    undone = [state["status"] for state in states if not state["status"].startswith("done")]
    if undone:
        return f"a panel says {undone[0]!r}"
    if len(states) < 2 or len({state["image"] for state in states}) < len(states):
        return "a panel shows the same picture in every state, or has only one"
    return ""


def _widget_errors(executed: NotebookNode) -> list[str]:
    """Errors that a callback left in an Output widget, where no cell shows them."""
    models = _widget_models(executed).values()
    hidden = [output for model in models for output in model.get("state", {}).get("outputs", ())]
    return [f"in a widget: {said(output)}" for output in hidden if output["output_type"] == "error"]


def without_widgets(executed: NotebookNode) -> None:
    """With widget state nbconvert would leave out pictures and load scripts; papermill's notes name this machine."""
    executed.metadata.pop("widgets", None)
    executed.metadata.pop("papermill", None)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)
