"""Regenerate the README's figures and picture: ``make readme``.  Runs all notebooks and tests, and needs Chromium."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKS = "<!-- figures: written by `make readme` -->", "<!-- end of figures -->"


def figures(durations: dict[str, float]) -> str:
    """The README's block of figures, from the committed numbers and what was timed."""
    report, again, test = _minutes(durations["report"]), durations["again"], _minutes(durations["test"])
    lines = [f"On {durations['machine']}: `make report` took {report} at its first run "]
    lines[0] += f"and {again:.1f} s when nothing had changed, `make test` after that {test}. "
    lines[0] += "What the notebooks recorded, mean over seeds (lowest to highest):"
    lines += ["", "| notebook | number | |", "|---|---|---|"]
    for path in sorted((ROOT / "reports" / "metrics").glob("*.json")):
        for metric in json.loads(path.read_text())["metrics"]:
            if len(metric["values"]) > 1:
                value = f"{metric['mean']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"
                lines.append(f"| {path.stem[:2]} | {metric['name']} | {value} |")
    return "\n".join(lines)


def put_in(readme: str, block: str) -> str:
    """The README with its block of figures replaced."""
    start, end = MARKS
    return re.sub(f"{re.escape(start)}.*{re.escape(end)}", lambda _: f"{start}\n{block}\n{end}", readme, flags=re.DOTALL)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def _timed(*command: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True)
    return time.monotonic() - began


def main() -> None:
    """Time the commands, then write the block; the browser test of the panel takes the picture."""
    import psutil

    durations = {
        "machine": f"{psutil.cpu_count()} cores with {psutil.virtual_memory().total / 1e9:.0f} GB",
        "report": round(_timed("fedlab.lab.report", "--force"), 1),
        "again": round(_timed("fedlab.lab.report"), 1),
        "test": round(_timed("pytest", "--take-picture"), 1),
    }
    (ROOT / "reports" / "durations.json").write_text(json.dumps(durations, indent=1) + "\n")
    readme = ROOT / "README.md"
    readme.write_text(put_in(readme.read_text(encoding="utf-8"), figures(durations)), encoding="utf-8")


if __name__ == "__main__":
    main()
