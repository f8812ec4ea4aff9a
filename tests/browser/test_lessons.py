"""Every widget of every panel, moved as a reader would; every control has its effect."""

import json
import re
import time
from pathlib import Path

import pytest
from driver import SET_SOURCE, PanelPage, run_cells
from playwright.sync_api import expect

from fedlab.lab.course import read_parameters

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
pytestmark = pytest.mark.parametrize("lab", ["perCommTarget"], indirect=True)


def falls(name, value, quantity, by=0.02):
    """Expect ``quantity`` to be smaller with ``name`` at ``value`` than at the defaults."""
    return (
        name,
        value,
        lambda before, after: after[quantity] < before[quantity] - by * abs(before[quantity]),
    )


def rises(name, value, quantity, by=0.02):
    return (
        name,
        value,
        lambda before, after: after[quantity] > before[quantity] + by * abs(before[quantity]),
    )


def moves(name, value, quantity):
    return name, value, lambda before, after: after[quantity] != before[quantity]


def vanishes(name, value, quantity):
    return name, value, lambda before, after: after[quantity] < 1e-9


# The effects of each control, one list per panel of a notebook. Other controls are at their
# defaults, except for the settings that stand before an effect.
MEANING = {
    "00_start_here": [
        [
            falls("alpha", 0.02, "accuracy"),
            ({"alpha": 0.1}, falls("clients_per_round", 1, "accuracy")),
            moves("seeds", 2, "accuracy"),
        ],
    ],
    "01_federated_averaging": [
        [
            falls("alpha", 0.02, "accuracy"),
            ({"alpha": 0.1}, falls("clients_per_round", 1, "accuracy")),
            moves("local_epochs", 3, "accuracy"),
            falls("learning_rate", 0.001, "accuracy"),
            moves("panel_seeds", 2, "accuracy"),
        ],
    ],
    "02_non_iid": [
        [
            rises("partition", "iid", "effective classes"),
            falls("alpha", 0.05, "effective classes"),
            ({"partition": "classes_per_client"}, falls("pieces", 1, "effective classes")),
            ({"partition": "quantity_lognormal"}, falls("sigma", 3.0, "effective classes")),
        ],
        [
            rises("skew", "quantity", "skewed"),
            rises("strength", 0.0, "skewed"),
            moves("local_epochs", 2, "skewed"),
            falls("learning_rate", 0.001, "iid"),
            moves("panel_seeds", 2, "skewed"),
        ],
    ],
    "03_convergence": [
        [
            falls("local_steps", 2, "distance"),
            falls("learning_rate", 0.1, "distance"),
            falls("apart", 0.0, "distance"),
            falls("turn", 0, "distance"),
        ],
        [
            moves("steps_1", 20, "FedAvg"),
            falls("steps_2", 3, "FedAvg"),
            rises("small_rate", 0.3, "FedNova"),
        ],
        [
            moves("local_epochs", 3, "accuracy"),
            moves("batch_size", 0, "accuracy"),
            falls("clients_per_round", 1, "accuracy"),
            falls("digits_rate", 0.003, "accuracy"),
            ({"clients_per_round": 2}, rises("holds", "all alike", "accuracy")),
            moves("panel_seeds", 2, "accuracy"),
        ],
        [
            vanishes("mu", 0.0, "largest distance between law and suspect"),
            vanishes("local_steps", 1, "largest distance between law and suspect"),
        ],
        [vanishes("taking_part", 10, "distance"), vanishes("replaced", "step", "distance")],
    ],
    "04_communication": [
        [
            rises("sent_by", "whole", "bytes"),
            rises("share", 0.1, "bytes"),
            ({"sent_by": "QSGD"}, rises("bits", 8, "bytes")),
        ],
        [
            falls("kilobytes", 1.0, "QSGD"),
            moves("memory", "none", "top-k"),
            rises("local_epochs", 5, "top-k"),
            moves("panel_seeds", 2, "top-k"),
        ],
    ],
    "06_large_models": [
        [
            falls("alpha", 0.03, "accuracy"),
            rises("trains", "LoRA, last block", "kB up a client"),
            ({"trains": "LoRA, last block"}, falls("rank", 1, "kB up a client")),
        ],
        [
            falls("method", "FedEx-LoRA", "off"),
            moves("alpha", 100.0, "off"),
            falls("clients_per_round", 1, "off"),
        ],
    ],
    "07_billions": [
        [
            falls("model", "Llama 3.2 1B", "GB held"),
            rises("method", "full, bf16", "GB held"),
            falls("device", "laptop", "minutes computing"),
            rises("link", "phone, pessimistic", "seconds on the link"),
            rises("length", 512, "GB held"),
            rises("checkpoint", "no", "GB held"),
            ({"method": "full, bf16"}, falls("optimiser", "AdamW, 8 bits", "GB held")),
        ],
    ],
    "08_devices": [
        [
            falls("policy", "fastest half", "minutes"),
            rises("over_selection", 0.0, "minutes"),
            ({"policy": "deadline"}, falls("deadline", 20.0, "minutes")),
            rises("dropout", 0.5, "lost"),
        ],
        [
            rises("policy", "fastest half", "times faster"),
            falls("clients_per_round", 2, "kilojoules"),
            falls("alpha", 0.03, "accuracy"),
            falls("dropout", 0.5, "kilojoules"),
        ],
    ],
    "09_async_incremental": [
        [
            falls("at_work", 5, "times faster"),
            rises("buffer", 1, "steps old"),
            moves("staleness", "not at all", "FedBuff"),
            falls("slower", 1.0, "times faster"),
        ],
        [
            rises("comes", "turned pictures", "what was"),
            rises("remedy", "replay", "what was"),
            ({"remedy": "replay"}, falls("memory", 1, "what was")),
            (
                {"comes": "turned pictures", "remedy": "distillation"},
                moves("weight", 5.0, "what was"),
            ),
        ],
    ],
    "10_edge": [
        [
            moves("edges", 2, "edges"),
            falls("period", 10, "MB to the cloud"),
            rises("holds", "alike", "edges"),
            moves("link", "3G", "times quicker"),
        ],
        [falls("graph", "complete", "disagreement"), moves("alpha", 10.0, "own")],
        [
            falls("cut", 7, "kB across"),
            rises("device", "wearable or hub", "seconds"),
            rises("link", "3G", "seconds"),
        ],
        [
            falls("threshold", 0.4, "milliseconds"),
            rises("device", "wearable or hub", "milliseconds"),
            rises("link", "3G", "milliseconds"),
        ],
        [
            moves("model", "GPT-2", "seconds"),
            ({"model": "GPT-2", "link": "3G"}, moves("device", "laptop", "pieces here")),
            rises("link", "3G", "seconds"),
            rises("tokens", 1024, "seconds"),
        ],
    ],
    "05_model_compression": [
        [falls("sparsity", 0.98, "accuracy"), falls("goes", "units", "accuracy")],
        [
            falls("sparsity", 0.98, "pruned"),
            falls("goes", "units", "pruned", by=0.01),
            falls("when", "at once, after round 1", "pruned"),
            moves("panel_seeds", 2, "pruned"),
        ],
        [
            falls("alpha", 0.05, "strong devices only"),
            falls("weak", 0.05, "everyone small"),
            moves("panel_seeds", 2, "everyone small"),
        ],
    ],
}


SMALLER = {  # parameters with which a notebook trains less and draws the same
    "00_start_here": {"rounds": 30},
    "01_federated_averaging": {"rounds": 30},
    "02_non_iid": {"rounds": 15},
    "03_convergence": {"rounds": 20},
    "04_communication": {"rounds": 20},
    "05_model_compression": {"rounds": 40},
    "06_large_models": {"per_topic": 20},
    "08_devices": {"rounds": 20},
    "09_async_incremental": {"updates": 200},
}


def cells_of(name):
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def set_smaller(page, name) -> None:
    """Write the smaller parameters into the notebook's own cell of parameters."""
    smaller = SMALLER.get(name, {})
    assert smaller.keys() <= read_parameters(ROOT / "notebooks" / f"{name}.ipynb").keys()
    cells = cells_of(name)
    at = next(
        at for at, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", [])
    )
    source = "".join(cells[at]["source"])
    for parameter, value in smaller.items():  # JupyterLab saves them, and panels read them there
        source, n = re.subn(rf"(?m)^({parameter}: \w+ =) \S+", rf"\1 {value}", source)
        assert n == 1
    page.evaluate(SET_SOURCE, [at, source])


def needed(name, names):
    """Return the cells of a notebook that its panels need, and the number of panels."""
    sources = {
        at: "".join(cell["source"])
        for at, cell in enumerate(cells_of(name))
        if cell["cell_type"] == "code"
    }
    panels = [at for at, source in sources.items() if "\nPanel(" in source]
    wanted, chosen = set(), []
    for at in reversed([at for at in sources if at <= panels[-1]]):
        defined, used = names(sources[at])
        if at in panels or defined & wanted:
            chosen.append(at)
            wanted = (wanted - defined) | used
    return chosen[::-1], len(panels)


def numbers(panel) -> dict[str, float]:
    """Return the numbers of the status line by name."""
    words = panel.until("^done").replace("(seen before)", "").split("  ")
    figures = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            figures[name] = float(value)
        except ValueError:
            continue
    return figures


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_widget_of_every_panel(name, open_notebook, names, screenshot):
    page = open_notebook(name)
    set_smaller(page, name)
    cells, count = needed(name, names)
    run_cells(page, cells)
    page.locator(".fedlab-status").nth(count - 1).wait_for()
    assert page.locator(".fedlab-status").count() == count == len(MEANING[name])
    for k, meaning in enumerate(MEANING[name]):
        panel = PanelPage(page, k)
        drive(panel, meaning)
        point(panel)
        screenshot(panel.box, f"{name}_panel_{k + 1}")
        stop(panel, meaning)
        assert panel.driven >= panel.widgets(), (
            f"no test drives {panel.widgets() - panel.driven} of panel {k + 1}"
        )
        assert panel.complaints == []
    widgets = page.locator(
        ".jp-Notebook .jupyter-widgets"
        ":is(.widget-text, .widget-dropdown, .jupyter-button, .widget-slider)"
    )
    inside = sum(
        PanelPage(page, k)
        .box.locator(
            ".jupyter-widgets:is(.widget-text, .widget-dropdown, .jupyter-button, .widget-slider)"
        )
        .count()
        for k in range(count)
    )
    assert widgets.count() == inside, "there is a widget outside of all panels"


def drive(panel, meaning) -> None:
    panel.until("^done")
    assert panel.alt
    values, wrong = {}, []
    for entry in meaning:
        settings, (name, value, holds) = entry if isinstance(entry[0], dict) else ({}, entry)
        for control, at in settings.items():
            values[control] = panel.field(control).input_value()
            panel.put(control, at)
        values[name] = panel.field(name).input_value()
        before = numbers(panel)
        if settings and panel.row(name).locator(".noUi-handle").count():  # idle at the defaults
            press(panel, name)
        panel.put(name, value)
        after = numbers(panel)
        wrong += [] if holds(before, after) else [f"{name}={value}: {before}, then {after}"]
        for control, at in reversed(values.items()):  # back to the defaults, seen before
            panel.put(control, at)
        values = {}
    assert not wrong
    keys(panel)
    predict(panel)
    share(panel)


def keys(panel) -> None:
    """Check that every slider answers to a key; one that does nothing says why, and is still."""
    rows = panel.box.locator(".widget-hbox:visible:has(> .widget-text):has(.noUi-handle)")
    for name in rows.locator(".widget-text label").all_text_contents():
        if panel.field(name).is_disabled():
            panel.row(name).get_by_text("only if").wait_for()
            assert f"slider of {name}" in panel.driven, f"no test drives {name} where it counts"
        else:
            press(panel, name)
    panel.until("^done")


def sliders_that_count(panel) -> list[str]:
    """Return the names of the sliders that do something at this setting."""
    rows = panel.box.locator(".widget-hbox:visible:has(> .widget-text):has(.noUi-handle)")
    names = rows.locator(".widget-text label").all_text_contents()
    return [name for name in names if panel.field(name).is_enabled()]


def press(panel, name) -> None:
    """Move a slider by a key, and see its field follow."""
    field = panel.field(name)
    was = field.input_value()
    for key in ("ArrowRight", "ArrowLeft"):  # one of them, where it stands at an end
        panel.key(name, key)
        if soon(panel.page, lambda: field.input_value() != was, 5):
            break
    panel.until(rf"^(running|done) .*\b{name}={re.escape(field.input_value())[:4]}")


def soon(page, holds, seconds=10) -> bool:
    """Return whether a condition becomes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        page.wait_for_timeout(30)
    return held


def predict(panel) -> None:
    """Predict a value, then train, and see the gap."""
    if panel.box.get_by_role("button", name="Predict first").count() == 0:
        return
    panel.button("Predict first").click()
    guesses = panel.box.locator(".widget-vbox .widget-vbox .widget-text label")
    guesses.first.wait_for()
    first = sliders_that_count(panel)[0]
    for name in guesses.all_text_contents():
        panel.type(name, "2" if "classes" in name else "0.5")
        panel.key(name, "ArrowLeft")
    panel.button("Train").click()
    panel.box.get_by_text("You expected").wait_for()
    assert "off on average" in panel.box.get_by_text("You expected").text_content()
    panel.key(first, "ArrowLeft")
    panel.key(first, "ArrowLeft")
    panel.until("^waiting")
    panel.button("Predict first").click()  # without it, what was waited for is trained
    panel.until("^done")


def share(panel) -> None:
    """Use numbers, call, command, files and report; take earlier runs out of the picture."""
    page = panel.page
    panel.button("Numbers").click()
    panel.box.locator("table.fedlab-numbers").wait_for()
    assert panel.box.locator("table.fedlab-numbers tr").count() > 2
    panel.button("Numbers").click()
    panel.button("Code").click()
    codes = panel.box.locator("code")
    codes.nth(1).wait_for()
    call, command = codes.all_text_contents()
    first = panel.box.locator(".widget-text label, .widget-dropdown label").first.text_content()
    assert call.startswith("*_, last = ")
    assert f"{first}=" in call
    assert re.match(r"python -m fedlab report \d\d ", command)
    copy = panel.box.get_by_role("button", name="copy: the report, on a command line")
    assert copied(panel, copy) == command
    link(panel)
    pin(panel)
    panel.button("Save").click()
    for file, begins in {
        "numbers.csv": b"",
        "picture.png": b"\x89PNG",
        "picture.svg": b"<?xml",
    }.items():
        with page.expect_download() as download:
            panel.box.get_by_role("link", name=file).click()
        content = Path(download.value.path()).read_bytes()
        assert content.startswith(begins)
        assert b"," in content
    panel.button("Make report").click()
    panel.box.get_by_text("making the report").wait_for()
    panel.button("Cancel report").click()
    panel.box.get_by_text("the report was given up").wait_for()
    pixels = panel.pixels
    panel.button("Clear earlier runs").click()
    assert soon(page, lambda: panel.pixels != pixels), "the pale runs are gone"


def copied(panel, button) -> str:
    """Press a button that copies; return the clipboard once the panel says that it has it."""
    panel.page.evaluate("navigator.clipboard.writeText('')")
    button.click()
    panel.box.get_by_text("copied", exact=True).first.wait_for()
    return panel.page.evaluate("navigator.clipboard.readText()")


def link(panel) -> None:
    """Copy the setting as a line; paste a worse line and another one."""
    line = copied(panel, panel.button("Copy"))
    assert line == panel.field("setting").input_value()
    assert re.match(r"fedlab [\w.]+ \d\d \w+: \w+=", line)
    panel.type("setting", f"{line} beta=1")
    panel.box.get_by_text("'beta' is none").wait_for()
    panel.type("setting", re.sub(r"fedlab \S+", "fedlab 0.0.1", line))
    panel.box.get_by_text("fedlab 0.0.1 made it").wait_for()
    assert panel.field("setting").input_value() == line
    panel.until("^done")


def pin(panel) -> None:
    """Pin the run as A, move a control, and see B against it; then let A go."""
    panel.button("Pin A").click()
    panel.box.get_by_text("A is pinned").wait_for()
    if sliders := sliders_that_count(panel):
        press(panel, sliders[0])
    else:
        field = panel.box.locator("select").first
        options = field.locator("option:not(:checked)").evaluate_all("all => all.map(o => o.value)")
        panel.put(panel.box.locator(".widget-dropdown label").first.text_content(), options[0])
    panel.until("^done")
    panel.box.locator(".fedlab-gap").get_by_text("B − A").wait_for()
    panel.button("Unpin A").click()
    panel.button("Pin A").wait_for()
    assert panel.box.locator(".fedlab-gap").count() == 0


def point(panel) -> None:
    """Read the picture with the pointer, and take a part of it out and back."""
    drawn = panel.widgets()
    if "points of the picture" in drawn:
        assert re.search(r"\d", panel.point())
    if "names of the picture" in drawn:
        panel.take_out()


def stop(panel, meaning) -> None:
    """Stop a run that lasts; a run that is over at once leaves nothing to stop."""
    each = [({}, entry) if isinstance(entry[0], str) else entry for entry in meaning]
    by_number = [entry for entry in each if not isinstance(entry[1][1], str)]
    settings, (name, value, _) = min(by_number, key=lambda entry: len(entry[0]))
    for control, at in settings.items():
        panel.put(control, at)
    panel.type(name, f"{value:g}")
    said = panel.until(rf"^(running|done) .*\b{name}={value:g} ")
    if said.startswith("running"):
        panel.button("Stop").click(force=True)  # it may be over by then, and the button dead
        said = panel.until("^(stopped|done)")
    over = re.search(r"\((0\.\d s|seen before)\)$", said)
    assert said.startswith("stopped") or over, said
    if said.startswith("stopped"):  # the word and the button come one after the other
        expect(panel.button("Run again")).to_be_enabled()
    else:
        expect(panel.button("Stop")).to_be_disabled()
