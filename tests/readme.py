"""Regenerate the README's figures and picture: ``make readme``.  Runs all notebooks and tests, and needs Chromium.

``--as-recorded`` runs nothing and writes what is recorded in reports and data: so ``make bench`` and ``make large`` end.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
FIGURES = "<!-- figures: written by `make readme` -->", "<!-- end of figures -->"
STALE = "tests/test_readme.py::test_the_figures_are_those_measured"  # until both blocks are written anew, below
FINE_TUNING = "<!-- fine-tuning: written by `make large` -->", "<!-- end of fine-tuning -->"
SPEED = "<!-- speed: written by `make bench` -->", "<!-- end of speed -->"


def figures(durations: dict[str, float]) -> str:
    """The README's block of figures, from the committed numbers and what was timed."""
    report, again, test = (
        _minutes(durations["report"]),
        durations["again"],
        _minutes(durations["test"]),
    )
    lines = [f"On {durations['machine']}: `make report` took {report} at its first run "]
    lines[0] += f"and {again:.1f} s when nothing had changed, `make test` {test}. "
    panel = json.loads((ROOT / "reports" / "panel.json").read_text())
    said = ", ".join(f"{name} in {t:.2f} s" for name, t in panel["seconds"].items())
    lines[0] += (
        f"After a key the panel above shows {said}; a hundred rounds of the floor program, below, took "
    )
    lines[0] += f"{panel['floor']:.2f} s in the same minute. "
    lines[0] += "What the notebooks recorded, mean over seeds (lowest to highest):"
    lines += ["", "| notebook | number; costs and gains are in test accuracy | |", "|---|---|---|"]
    for path in sorted((ROOT / "reports" / "metrics").glob("*.json")):
        for metric in json.loads(path.read_text())["metrics"]:
            if len(metric["values"]) > 1:
                value = f"{metric['mean']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
                lines.append(f"| {path.stem[:2]} | {metric['name']} | {value} |")
    return "\n".join(lines)


def speed(record: dict) -> str:
    """The README's table of speeds, from what ``make bench`` recorded."""
    lines = [
        f"On {record['machine']}; ratios within one run, median (lowest to highest) of {record['repeats']}.",
        "",
    ]
    lines += [
        "| a round of | in times the floor's | plain PyTorch, in times ours | peak MB |",
        "|---|---|---|---|",
    ]
    for name, told in record["works"].items():
        ratios = (f"{_range(told[key])} times" for key in ("of the floor", "faster than plain"))
        lines.append(f"| {name}: {told['text']} | {' | '.join(ratios)} | {told['peak MB']:.0f} |")
    lines += ["", "| | times |", "|---|---|"]
    lines += [f"| {told['text']} | {_range(told['ratio'])} |" for told in record["pieces"].values()]
    rates = ", ".join(f"{name} {told['MB/s'][0]}" for name, told in record["packing"].items())
    lines += [
        "",
        f"Packed to bytes and unpacked on one thread, in MB a second of the whole row: {rates}.",
    ]
    return "\n".join(lines)


def fine_tuning(table: pd.DataFrame) -> str:
    """The README's table of full-size runs, as they end, from what ``make large`` recorded."""
    lines = [
        "| texts, clients, alpha | what trains | rounds, clients in each | accuracy | MB up a client, in all | minutes |"
    ]
    lines += ["|---" * 6 + "|"]
    for (texts, clients, alpha, method), runs in table.groupby(
        ["texts", "clients", "alpha", "method"], sort=False
    ):
        ends = runs[runs["round"] == runs["round"].max()]
        accuracy = f"{ends['accuracy'].mean():.3f} ({ends['accuracy'].min():.3f} to {ends['accuracy'].max():.3f})"
        sent = "" if ends["kB_up"].isna().any() else f"{ends['kB_up'].mean() / 1e3:.1f}"
        rounds, minutes = (
            f"{ends['round'].iloc[0]}, {ends['in_a_round'].iloc[0]}",
            f"{ends['seconds'].mean() / 60:.2g}",
        )
        lines.append(
            f"| {texts}, {clients}, {alpha} | {method} | {rounds} | {accuracy} | {sent} | {minutes} |"
        )
    return "\n".join(lines)


def as_recorded(readme: str) -> str:
    """The README with its blocks anew, from the committed records."""
    record = lambda name: json.loads((ROOT / "reports" / name).read_text())  # noqa: E731
    blocks = {
        FIGURES: figures(record("durations.json")),
        FINE_TUNING: fine_tuning(pd.read_csv(ROOT / "data" / "fine_tuning.csv")),
        SPEED: speed(record("speed.json")),
    }
    for (start, end), block in blocks.items():
        whole = f"{start}\n{block}\n{end}"
        readme = re.sub(
            f"{re.escape(start)}.*{re.escape(end)}",
            lambda _, whole=whole: whole,
            readme,
            flags=re.DOTALL,
        )
    return readme


def _range(values: list[float]) -> str:
    median, low, high = values
    return f"{median:.2g} ({low:.2g} to {high:.2g})"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def _timed(*command: str) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.monotonic() - began


def measure() -> None:
    """Time the commands; the browser test of the panel takes the picture."""
    import psutil

    python = sys.executable, "-m"
    durations = {
        "machine": f"{psutil.cpu_count()} cores with {psutil.virtual_memory().total / 1e9:.0f} GB",
        "report": round(_timed(*python, "fedlab.lab.report.make", "--force"), 1),
        "again": round(_timed(*python, "fedlab.lab.report.make"), 1),
        "test": round(_timed("make", "test", f"ARGS=--deselect {STALE}"), 1),
    }
    _timed(
        *python, "pytest", "--take-picture", "tests/browser/test_panel.py"
    )  # once more, with nothing beside it
    (ROOT / "reports" / "durations.json").write_text(json.dumps(durations, indent=1) + "\n")


def main() -> None:
    """Measure, unless told not to, and write the README's blocks."""
    if "--as-recorded" not in sys.argv:
        measure()
    readme = ROOT / "README.md"
    readme.write_text(as_recorded(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
