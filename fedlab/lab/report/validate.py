"""Faults of an executed notebook: errors, warnings, idle panels, numbers out of range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedlab.lab.report import metrics
from fedlab.lab.report.answer import read_answer

if TYPE_CHECKING:
    from nbformat import NotebookNode


PANEL = "application/vnd.fedlab.panel+json"  # the states to which a panel was driven

# a figure in HTML; plots.picture has the name, too, and takes a second to import
PICTURE = "application/vnd.fedlab.picture+json"

CHECK = "application/vnd.fedlab.check+json"  # the verdict of an exercise's check

WIDGET = "application/vnd.jupyter.widget-view+json"


def find_faults(executed: NotebookNode) -> list[str]:
    """Describe every fault of a notebook that ran to its end."""
    faults = []
    for cell in executed.cells:
        at = f"cell [{cell.get('execution_count')}]: "
        faults += [at + error_line(output) for output in outputs_of(cell, "error")]
        faults += [
            at + "wrote a warning" for output in outputs_of(cell, "stream") if _warns(output)
        ]
        faults += [
            at + fault
            for output in cell.get("outputs", ())
            if (fault := _panel_fault(output.get("data", {})))
        ]
    faults += _widget_errors(executed)
    try:
        read_answer(executed)
    except ValueError as error:
        faults.append(str(error))
    try:
        recorded = metrics.read_metrics(executed)
    except ValueError as error:
        return [*faults, str(error)]
    wrong = [metric for metric in recorded if metric["pass"] is False]
    return faults + [metrics.describe_metric(metric) for metric in wrong]


def outputs_of(cell: NotebookNode, kind: str) -> list[NotebookNode]:
    """Return the outputs of one kind, such as "error" or "stream"."""
    return [output for output in cell.get("outputs", ()) if output.output_type == kind]


def error_line(output: Mapping[str, Any]) -> str:
    """Return an error in one line.

    Example:
        >>> error_line({"ename": "ValueError", "evalue": "alpha=-1 must be above 0"})
        'ValueError: alpha=-1 must be above 0'
    """
    return f"{output['ename']}: {output['evalue']}".strip().splitlines()[0]


def _warns(output: NotebookNode) -> bool:
    return output.name == "stderr" and "Warning" in output.text


def _panel_fault(data: Mapping[str, Any]) -> str:
    """Return the fault of a panel, which needs two states or more, each done and different."""
    if PANEL not in data:
        return "a widget was never driven; wrap it in a Panel" if WIDGET in data else ""
    states = data[PANEL]["states"]
    undone = [state["status"] for state in states if not state["status"].startswith("done")]
    if undone:
        return f"a panel says {undone[0]!r}"
    if len(states) < 2 or len({state["image"] for state in states}) < len(states):
        return "a panel shows the same picture in every state, or has only one"
    return ""


def panel_costs(executed: NotebookNode) -> list[dict[str, Any]]:
    """Return states, seconds and bytes of each panel of a live report."""
    names = ("states", "failed", "left_out", "seconds", "size")
    panels = [
        output["data"][PANEL]
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if PANEL in output.get("data", ())
    ]
    return [{name: panel["live"][name] for name in names} for panel in panels if "live" in panel]


def _widget_errors(executed: NotebookNode) -> list[str]:
    """Describe errors that a callback left in an Output widget, where no cell shows them."""
    models = _widget_models(executed).values()
    hidden = [output for model in models for output in model.get("state", {}).get("outputs", ())]
    errors = [output for output in hidden if output["output_type"] == "error"]
    return [f"in a widget: {error_line(output)}" for output in errors]


def drop_progress_bars(executed: NotebookNode) -> None:
    """Remove the progress bars of tqdm, which are widgets without a control."""
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
                output
                for output in cell.outputs
                if output.get("data", {}).get(WIDGET, {}).get("model_id") not in bars
            ]


def _widget_models(executed: NotebookNode) -> dict[str, Any]:
    return (
        executed.metadata.get("widgets", {})
        .get("application/vnd.jupyter.widget-state+json", {})
        .get("state", {})
    )


def drop_expectations(executed: NotebookNode) -> None:
    """Remove the expected limits of metrics, which hold for the default parameters only."""
    for cell in executed.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if metrics.MIME in data:
                metric = data[metrics.MIME] | {"expected": None, "pass": None}
                data.update(metrics.mime_bundle(metric))


def drop_widgets(executed: NotebookNode) -> None:
    """Remove widgets and papermill's notes from a notebook.

    With the state of widgets, nbconvert would leave out pictures and load scripts. papermill's
    notes name folders of this machine.
    """
    executed.metadata.pop("widgets", None)
    executed.metadata.pop("papermill", None)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(WIDGET, None)
