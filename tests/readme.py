"""Regenerate the figures and pictures of README.md and reports/README.md: ``make readme``.

It runs all notebooks and tests, and needs Chromium. ``--as-recorded`` runs nothing and writes what
reports and data have recorded: ``make bench`` and ``make large`` end with it.
"""

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
STALE = "tests/test_readme.py::test_the_figures_are_those_measured"  # until both are written anew
WIDTH = 320  # pixels of a thumbnail, twice as wide as shown

# One number of each notebook, by its recorded name, and the words around it.
HEADLINES = {
    "00": ("test accuracy after the last round", "FedAvg reaches {}"),
    "01": ("gain of federating over training alone, alpha 1", "gain over training alone: {}"),
    "02": ("cost of strong label skew", "strong label skew costs {}"),
    "03": ("FedAdam minus FedAvg, tuned, 30 rounds", "FedAdam gains {}, both tuned"),
    "04": (
        "times fewer bytes within 1.5 points of whole rows",
        "{} times fewer bytes, 1.5 points lost",
    ),
    "05": ("cost of pruning 95 % of the weights while training", "pruning 95 % costs {}"),
    "06": ("then LoRA on two blocks, banking77, 10 rounds", "LoRA reaches {} on 77 intents"),
    "07": ("MB up, LoRA r=8 on query and value of 7B", "LoRA of 7B sends {} MB"),
    "08": ("times faster with 30 % more asked, equal rounds", "over-selection: {} times faster"),
    "09": ("times less time to 0.8 by FedBuff than by rounds", "FedBuff: {} times faster to 0.8"),
    "10": (
        "times quicker to 0.8 with a period of 10, edges alike",
        "edges: {} times faster to 0.8",
    ),
}


def recorded(path: Path) -> dict:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def figures() -> str:
    """Return the block of all recorded numbers, and of what was timed."""
    durations, panel = recorded(REPORTS / "durations.json"), recorded(REPORTS / "panel.json")
    seconds = ", ".join(f"{name} {value:.2f} s" for name, value in panel["seconds"].items())
    lines = [
        f"On {durations['machine']}: `make report` took {_minutes(durations['report'])} at its "
        f"first run and {durations['again']:.1f} s when nothing had changed, `make test` "
        f"{_minutes(durations['test'])}. After a key press in the panel of notebook 00: {seconds}. "
        f"For scale, the floor program (see Speed) took {panel['floor']:.2f} s for 100 rounds. "
        "Costs and gains are in test accuracy; mean over seeds (lowest to highest).",
        "",
        "| notebook | number | |",
        "|---|---|---|",
    ]
    for path in sorted((REPORTS / "metrics").glob("*.json")):
        for metric in recorded(path)["metrics"]:
            mean, low, high = (
                _as_precise(metric[name], metric["tolerance"], 1)
                for name in ("mean", "low", "high")
            )
            value = f"{mean} ({low} to {high})" if len(metric["values"]) > 1 else mean
            lines.append(f"| {path.stem[:2]} | {metric['name']} | {value} |")
    return "\n".join(lines)


def course() -> str:
    """Return the table of the course: thumbnail, question, minutes and one number per notebook."""
    from fedlab.lab.course import curriculum

    lines = [
        "| | question | minutes to run | number (test accuracy, or as said) |",
        "|---|---|---|---|",
    ]
    for lesson in curriculum.list_lessons(ROOT / "notebooks"):
        number = lesson.number
        metrics = recorded(REPORTS / "metrics" / f"{lesson.name}.json")["metrics"]
        name, words = HEADLINES[number]
        metric = next(m for m in metrics if m["name"] == name)
        image = f"![{lesson.title}](reports/thumbnails/{number}.png)"
        link = f"[{number} {lesson.title}](notebooks/{lesson.path.name})<br>{lesson.question}"
        value = words.format(_as_precise(metric["mean"], metric["tolerance"]))
        lines.append(f"| {image} | {link} | {lesson.minutes:g} | {value} |")
    return "\n".join(lines)


def _as_precise(value: float, tolerance: float, more: int = 0) -> str:
    """Return a number with as many digits as its tolerance warrants, and perhaps more."""
    digits = -math.floor(math.log10(tolerance)) + more if tolerance else 0
    rounded = round(value, digits) + 0.0  # no minus before a zero
    if digits > 3 and value and not rounded:
        return f"{value:.0e}"
    return f"{rounded:.{max(digits, 0)}f}"


def speed(rows: int | None = None) -> str:
    """Return the table of speeds that ``make bench`` recorded; only its first rows if asked."""
    record = recorded(REPORTS / "speed.json")
    more = (
        "The floor is a program for this very network, written by hand without autograd "
        "([how, and more](reports/README.md#speed)). "
    )
    lines = [
        f"{more if rows else ''}On {record['machine']}; ratios within one run, median "
        f"(lowest to highest) of {record['repeats']}.",
        "",
        "| a round of | our time / the floor's | plain PyTorch's time / ours | peak MB |",
        "|---|---|---|---|",
    ]
    for name, work in list(record["works"].items())[:rows]:
        ratios = " | ".join(_range(work[key]) for key in ("of the floor", "faster than plain"))
        lines.append(f"| {name}: {work['text']} | {ratios} | {work['peak MB']:.0f} |")
    if rows is not None:
        return "\n".join(lines)
    lines += ["", "| | times |", "|---|---|"]
    lines += [f"| {p['text']} | {_range(p['ratio'])} |" for p in record["pieces"].values()]
    rates = ", ".join(f"{name} {rate['MB/s'][0]}" for name, rate in record["packing"].items())
    lines += ["", f"Packed and unpacked on one thread, in MB/s of the dense update: {rates}."]
    return "\n".join(lines)


def fine_tuning() -> str:
    """Return the table of full-size runs that ``make large`` recorded."""
    table = pd.read_csv(ROOT / "data" / "fine_tuning.csv")
    columns = "texts, clients, alpha | what trains | rounds, clients in each | accuracy"
    lines = [f"| {columns} | MB up per client, in all | minutes |", "|---" * 6 + "|"]
    for group, runs in table.groupby(["texts", "clients", "alpha", "method"], sort=False):
        texts, clients, alpha, method = group
        ends = runs[runs["round"] == runs["round"].max()]
        scores = ends["accuracy"]
        accuracy = f"{scores.mean():.3f} ({scores.min():.3f} to {scores.max():.3f})"
        sent = "" if ends["kB_up"].isna().any() else f"{ends['kB_up'].mean() / 1e3:.1f}"
        rounds = f"{ends['round'].iloc[0]}, {ends['in_a_round'].iloc[0]}"
        minutes = f"{ends['seconds'].mean() / 60:.2g}"
        cells = (f"{texts}, {clients}, {alpha}", method, rounds, accuracy, sent, minutes)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_recorded(page: str) -> str:
    """Return a page, README.md or reports/README.md, with its blocks written anew."""
    blocks = {"figures": figures, "fine-tuning": fine_tuning, "course": course}
    blocks["speed"] = lambda: speed() if "<!-- figures:" in page else speed(rows=3)
    for name, write in blocks.items():
        between = rf"(<!-- {name}: written by `make \w+` -->\n).*?(<!-- end of {name} -->)"
        if re.search(between, page, re.DOTALL):
            text = write()
            page = re.sub(
                between, lambda m, text=text: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL
            )
    return page


def _range(values: list[float]) -> str:
    median, low, high = values
    return f"{median:.2g} ({low:.2g} to {high:.2g})"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"


def _timed(*command: str) -> float:
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.monotonic() - start


def thumbnails() -> None:
    """Write a small copy of each report's first picture."""
    from PIL import Image

    (REPORTS / "thumbnails").mkdir(exist_ok=True)
    for path in sorted(REPORTS.glob("[0-9][0-9]_*/thumbnail.png")):
        if "--" not in path.parent.name:
            image = Image.open(path).convert("RGB")
            image.thumbnail((WIDTH, WIDTH))
            small = image.quantize(64)
            small.save(REPORTS / "thumbnails" / f"{path.parent.name[:2]}.png", optimize=True)


def measure() -> None:
    """Time the commands; browser tests take the pictures of panel and dashboard."""
    import psutil

    python = sys.executable, "-m"
    durations = {
        "machine": f"{psutil.cpu_count()} cores with {psutil.virtual_memory().total / 1e9:.0f} GB",
        "report": round(_timed(*python, "fedlab", "report", "--force"), 1),
        "again": round(_timed(*python, "fedlab", "report"), 1),
        "test": round(_timed("make", "test", f"ARGS=--deselect {STALE}"), 1),
    }
    _timed(*python, "pytest", "--take-picture", "tests/browser")  # with nothing beside it
    thumbnails()
    (REPORTS / "durations.json").write_text(json.dumps(durations, indent=1) + "\n")


def main() -> None:
    """Measure, unless ``--as-recorded`` is set, and write the blocks of both pages."""
    if "--as-recorded" not in sys.argv:
        measure()
    for path in (ROOT / "README.md", REPORTS / "README.md"):
        path.write_text(as_recorded(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
