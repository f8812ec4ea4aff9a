"""Notebooks become reports: run once, written whole, checked, readable without a network."""

import base64
import errno
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import quote

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fedlab.lab.course import (
    Parameter,
    format_argument,
    list_lessons,
    load_notebook,
    parse_value,
    usable_cores,
)
from fedlab.lab.report import execute, files, make, record, sources, validate
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.make import main
from fedlab.lab.report.render import render_page
from fedlab.lab.report.validate import PANEL, WIDGET

PARAMETERS = (
    'alpha: float = 1.0  # [0.01 to 1000] how even\nscale: str = "fast"  # [fast | full] how long\n'
)
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5Erk"
    "Jggg=="
)
COMMAND = [
    sys.executable,
    "-c",
    "import sys, pathlib; from fedlab.lab.report import make; "
    "sys.exit(make.main(sys.argv[2:], root=pathlib.Path(sys.argv[1])))",
]
PROJECT = Path(__file__).parents[2]

PROSE = r"""# What a *report* holds

A formula $w_{t+1} = w_t + \frac{n_i}{n}\Delta_i$ in a line, `code with $x$ in it`,
[another](01_broken.ipynb), [its part](./01_broken.ipynb#Part), [data](../data/README.md),
[elsewhere](https://example.org), [here](#here).

![dot](dot.png)

$$\begin{aligned} a &= b \\ &= c < d \end{aligned}$$

```python
price = "$$ not a formula $$"
```
"""

BAR = "from tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='a bar', leave=False):\n    pass"

GOOD = [
    new_markdown_cell(PROSE),
    new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
    new_code_cell(
        "from fedlab.lab.plots import Picture\np = Picture('a line that rises')\n"
        "p.subplots().plot([1, 2])\np"
    ),
    new_code_cell(
        "from fedlab.lab.report import record\n"
        "record('accuracy', [0.8 * alpha, 0.9], expected=(0.5, 1), headline=True)"
    ),
    new_code_cell("print('a secret')", metadata={"tags": ["hide"]}),
    new_code_cell(BAR),
    new_code_cell(
        "assert __import__('os').path.exists('00_good.ipynb')  # a notebook runs in its own folder"
    ),
    new_code_cell(
        "# with --jobs, cores are shared out\n"
        "assert int(__import__('os').environ['OMP_NUM_THREADS']) >= 1"
    ),
]


def write(root, name, cells, after=(), question="Why?"):
    about = {"question": question, "minutes": 0.1, "after": list(after)}
    spec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    (root / "notebooks").mkdir(parents=True, exist_ok=True)
    nbformat.write(
        new_notebook(cells=cells, metadata={"fedlab": about, "kernelspec": spec}),
        root / "notebooks" / f"{name}.ipynb",
    )


def lesson(*code, text="# A title"):
    return [
        new_markdown_cell(text),
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, code),
    ]


def run_of(root, slug):
    return json.loads((root / "reports" / slug / "run.json").read_text(encoding="utf-8"))


def page_of(root, slug):
    return (root / "reports" / slug / "report.html").read_text(encoding="utf-8")


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# -- through real kernels


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Run six notebooks together, once; return their folder and the finished process."""
    root = tmp_path_factory.mktemp("built")
    write(root, "00_good", GOOD)
    (root / "notebooks" / "dot.png").write_bytes(base64.b64decode(PNG))
    write(
        root,
        "01_broken",
        lesson("print('before')", "def half(x):\n    return x / 0\n\nhalf(1)", "print('after')"),
    )
    write(
        root,
        "02_moved",
        lesson(
            "from fedlab.lab.report import record\nrecord('a<b', 0.1 * alpha, expected=(0.5, 1))"
        ),
    )
    write(root, "03_widget", lesson("import ipywidgets\nipywidgets.IntSlider()", BAR))
    write(root, "05_dies", lesson("import os\nos._exit(1)"))
    write(root, "04_warns", lesson("import warnings\nwarnings.warn('take care')"))
    done = subprocess.run(
        [*COMMAND, root, "--jobs", "2"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    return root, done


def environment():
    """Return an environment in which kernels import the package under test."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    }


@pytest.mark.slow
def test_goes_on_after_failures_and_says_each_in_a_line(built):
    root, done = built
    assert done.returncode == 1
    names = [path.stem for path in sorted((root / "notebooks").glob("*.ipynb"))]
    statuses = [run_of(root, name)["status"] for name in names]
    assert statuses == ["pass", "error", "fail", "fail", "fail", "error"]
    assert done.stderr.splitlines() == [
        "report: 01_broken: error, cell [3]: ZeroDivisionError: division by zero",
        "report: 02_moved: fail, a<b: 0.100, expected 0.5 to 1: does not hold",
        "report: 03_widget: fail, cell [2]: a widget was never driven; wrap it in a Panel",
        "report: 04_warns: fail, cell [2]: wrote a warning",
        "report: 05_dies: error, DeadKernelError: Kernel died",
    ]
    assert done.stdout.splitlines()[0].startswith("6 to run, about ")
    assert "00_good: pass, " in done.stdout


def test_page_needs_no_network(built):
    root, _ = built
    for page in [root / "reports" / "index.html", *root.glob("reports/*/report.html")]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(?:src|srcset|data|poster)\s*=\s*["']?(?:https?:)?//""", text), (
            page
        )
        assert not re.search(r"<link[^>]+href\s*=\s*[\"'](?!data:)", text), page
        assert not re.search(r"url\((?!#)|@import|\bimport\s*\(|fetch\(", text), page


@pytest.mark.slow
def test_formulas_are_drawn_by_the_browser_itself(built):
    page = page_of(built[0], "00_good")
    prose = page[page.index("<main>") :]
    assert prose.count("<math") == 2
    assert '<math display="block"' in prose
    assert "<mfrac>" in prose
    assert "&amp;</mi>" not in prose  # alignment was understood
    assert "code with $x$ in it" in prose
    assert "$$ not a formula $$" in re.sub(r"<[^>]+>", "", prose)


def test_page_shows_title_numbers_pictures_and_no_hidden_cell(built):
    page = page_of(built[0], "00_good")
    assert page.count("<h1>") == 1
    assert "<h1>What a *report* holds</h1>" in page or "<h1>What a report holds</h1>" in page
    assert 'aria-label="a line that rises"' in page
    assert "0.850" in page
    assert "0.5 to 1" in page
    assert "a secret" not in page
    assert "%|" not in page  # what would be left of a progress bar
    hrefs = re.findall(r'<a\b[^>]* href="(.*?)"', page[page.index("<main>") :])
    assert hrefs == [
        "../01_broken/report.html",
        "../01_broken/report.html#Part",
        "../../notebooks/../data/README.md",
        "https://example.org",
        "#here",
    ]
    assert '<img alt="dot" src="data:image/png;base64,' in page
    assert "<details" in page


def test_failing_cell_is_shown_where_it_failed(built):
    page = page_of(built[0], "01_broken")
    assert "This run failed." in page
    failed = page[page.index('id="failed"') :]
    failed = failed[: failed.index("</section>")]
    assert "ZeroDivisionError" in failed
    assert '<details class="code" open' in failed
    assert "before" in page
    assert "An Exception was encountered" not in page
    assert "code, not run" in page


def test_a_kernel_that_died_is_shown_at_its_cell(built):
    page = page_of(built[0], "05_dies")
    failed = page[page.index('id="failed"') :]
    assert "DeadKernelError" in failed[: failed.index("</section>")]


@pytest.mark.slow
def test_a_notebook_that_takes_too_long_is_stopped_and_the_cell_named(tmp_path, capsys):
    write(tmp_path, "00_slow", lesson("import time", "while True:\n    time.sleep(1)"))
    assert main(["--timeout", "8"], root=tmp_path) == 1
    said = "CellTimeoutError: cell [3], `while True:`, ran when the 8 s of the notebook were over"
    assert (
        f"00_slow: error, {said}; mend it, or give it more with --timeout"
        in capsys.readouterr().err
    )
    failed = page_of(tmp_path, "00_slow").split('id="failed"')[1]
    assert "ran when the 8 s of the notebook were over" in failed


def test_the_cells_of_a_notebook_share_one_limit(tmp_path, monkeypatch):
    import papermill

    write(tmp_path, "00_slow", lesson("x"))
    left = []

    def stand_in(*_, timeout_func, **__):
        for _ in range(2):
            left.append(timeout_func(None))
            time.sleep(0.02)

    monkeypatch.setattr(papermill, "execute_notebook", stand_in)
    (lesson_,) = list_lessons(tmp_path / "notebooks")
    execute.execute_notebook(Report(lesson_, {}, tmp_path), None, 10.0)
    assert 10 >= left[0] >= left[1] + 0.02
    left.clear()
    execute.execute_notebook(Report(lesson_, {}, tmp_path), None, 1e-9)
    assert min(left) > 0, "0 would be no limit"


def test_files_hold_no_widget_and_nothing_of_this_machine(built):
    root, _ = built
    for folder in (root / "reports").glob("0*"):
        text = (folder / "executed.ipynb").read_text(encoding="utf-8")
        nb = json.loads(text)
        assert "widgets" not in nb["metadata"]
        assert WIDGET not in text
        assert str(root) not in text


def test_index_shows_how_each_stands(built):
    root, _ = built
    index = (root / "reports" / "index.html").read_text(encoding="utf-8")
    cards = index.split("<article>")[1:]
    assert [re.search(r'class="chip (.*?)"', card)[1] for card in cards] == [
        "pass",
        "error",
        "fail",
        "fail",
        "fail",
        "error",
    ]
    assert "accuracy: 0.850 (0.800 to 0.900 over 2 seeds)" in cards[0]
    assert 'src="data:image/png;base64,' in cards[0]
    assert "data:image" not in cards[1]
    assert f'<time datetime="{run_of(root, "00_good")["finished"]}"' in cards[0]
    assert "a&lt;b" in cards[2]
    assert "ZeroDivisionError" in cards[1]


def test_only_good_numbers_are_committed(built):
    root, _ = built
    assert os.listdir(root / "reports" / "metrics") == ["00_good.json"]
    committed = json.loads(
        (root / "reports" / "metrics" / "00_good.json").read_text(encoding="utf-8")
    )
    assert committed["parameters"] == {"alpha": 1.0, "scale": "fast"}
    assert committed["metrics"][0]["mean"] == 0.85
    assert set(committed) == {"notebook", "parameters", "metrics"}


@pytest.mark.slow
def test_a_setting_has_its_own_report_and_is_not_judged(built, monkeypatch):
    """Expected ranges hold for the defaults only, so no other setting passes or fails them."""
    root, _ = built
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    before = contents(root / "reports" / "02_moved") | contents(root / "reports" / "metrics")
    assert main(["moved", "--set", "alpha=0.1"], root=root) == 0
    assert (
        contents(root / "reports" / "02_moved") | contents(root / "reports" / "metrics") == before
    )
    folder = root / "reports" / "02_moved--alpha=0.1"
    run, page = run_of(root, folder.name), page_of(root, folder.name)
    assert (run["parameters"], run["changed"]) == ({"alpha": 0.1, "scale": "fast"}, {"alpha": 0.1})
    (metric,) = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert (metric["mean"], metric["pass"]) == (0.01, None)
    assert "does not hold" not in page
    assert not re.search(r"<th[^>]*>expected|0.5 to 1", page)
    assert "with the parameters of this run" in page
    assert 'class="chip pass"' not in page
    assert re.search(r"<code>alpha = 0.1</code> instead of <code>1.0</code>", page)
    assert 'href="../02_moved/report.html"' in page
    assert '<main class="elsewhere">' in page
    assert "A title: alpha = 0.1" in re.search(r"<title>(.*?)</title>", page, re.DOTALL)[1]
    index = (root / "reports" / "index.html").read_text(encoding="utf-8")
    card = next(card for card in index.split("<article>") if "alpha = 0.1" in card)
    assert "not judged" in card
    assert 'class="chip pass"' not in card
    assert '<main class="elsewhere">' not in page_of(root, "02_moved")


def started(root, *, until, timeout=60):
    """Start reports in another process, and return it once ``until()`` is true."""
    process = subprocess.Popen(
        [*COMMAND, root], stderr=subprocess.PIPE, text=True, env=environment()
    )
    end = time.monotonic() + timeout
    while not until():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_halfway_keeps_earlier_reports_and_no_kernel(built, tmp_path, how):
    shutil.copytree(built[0] / "reports" / "00_good", tmp_path / "reports" / "00_good")
    before = contents(tmp_path / "reports" / "00_good")
    marker = tmp_path / "kernel"
    code = f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(100)"
    write(tmp_path, "00_good", lesson(code))
    with started(tmp_path, until=lambda: marker.exists() and marker.read_text()) as process:
        process.send_signal(how)
        _, said = process.communicate(timeout=20)
    assert contents(tmp_path / "reports" / "00_good") == before
    end = time.monotonic() + 20
    while not gone(int(marker.read_text())) and time.monotonic() < end:
        time.sleep(0.1)
    assert gone(int(marker.read_text()))
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said.splitlines() == ["report: interrupted; the reports made before are whole"]


def test_a_kernel_that_ends_by_itself_does_not_break_the_stop(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    listed = psutil.Process(ended.pid)
    ended.wait()
    run = Future()
    run.set_running_or_notify_cancel()
    calls = []

    def children(self, recursive):
        calls.append(recursive)
        if len(calls) > 1:
            run.set_result(None)
        return [listed]

    monkeypatch.setattr(psutil.Process, "children", children)
    execute.stop_kernels([run])
    assert calls == [True, True]


# -- with a stand-in for the kernel


class Player:
    """A stand-in for the kernel: every code cell gets an output, the last one a metric."""

    def __init__(self):
        self.played, self.value, self.error = [], 0.9, ""

    def __call__(self, asked, progress, limit):
        self.played.append(asked.slug)
        nb = nbformat.from_dict(load_notebook(asked.lesson.path))
        cells = [cell for cell in nb.cells if cell.cell_type == "code"]
        for count, cell in enumerate(cells, 1):
            cell.execution_count = count
            cell.outputs = [
                new_output("stream", text=f"output {len(self.played)} of {asked.slug}\n")
            ]
        cells[-1].outputs.append(
            new_output(
                "display_data", record("a", self.value, expected=(0.5, 1))._repr_mimebundle_()
            )
        )
        return nb, self.error


@pytest.fixture
def play(monkeypatch):
    player = Player()
    monkeypatch.setattr(execute, "execute_notebook", player)
    monkeypatch.setattr(make, "JOBS", 1)  # so the order of runs is known
    return player


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "00_first", lesson("1 + 1", text="# The first\n\nfirst words"))
    write(
        tmp_path,
        "01_second",
        [new_markdown_cell("# The second"), new_code_cell("2")],
        after=["00_first"],
    )
    (tmp_path / "fedlab" / "lab").mkdir(parents=True)
    (tmp_path / "fedlab" / "rng.py").write_text("a = 1\n")
    (tmp_path / "data" / "cache").mkdir(parents=True)
    (tmp_path / "data" / "table.csv").write_text("1,2\n")
    (tmp_path / "requirements.txt").write_text("# pinned\npytest==1.0\n-e .\n")
    return tmp_path


@pytest.mark.slow
def test_a_second_run_runs_nothing(root, play, capsys):
    assert main([], root=root) == 0
    assert sorted(play.played) == ["00_first", "01_second"]
    before = contents(root)
    assert main([], root=root) == 0
    assert main(["--set", "alpha=1"], root=root) == 0  # the default is no other setting
    assert sorted(play.played) == ["00_first", "01_second"]
    assert contents(root) == before
    assert "0 run, 2 up to date" in capsys.readouterr().out
    assert main(["--force"], root=root) == 0
    assert len(play.played) == 4


def change_text(root):
    text = (root / "notebooks" / "00_first.ipynb").read_text()
    (root / "notebooks" / "00_first.ipynb").write_text(text.replace("first words", "second words"))


def test_new_text_makes_a_new_page_and_runs_nothing(root, play):
    main([], root=root)
    change_text(root)
    assert main([], root=root) == 0
    assert len(play.played) == 2
    page = page_of(root, "00_first")
    assert "second words" in page
    assert "first words" not in page
    assert "output 1 of 00_first" in page
    before = contents(root)
    assert main([], root=root) == 0
    assert contents(root) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "text", "runs"),
    [
        ("fedlab/core/rng.py", "a = 2\n", ["00_first", "01_second"]),
        ("fedlab/lab/report/validate.py", "", ["00_first", "01_second"]),
        *((f"fedlab/lab/report/{name}", "", []) for name in sources.PAGE_MODULES),
        ("fedlab/lab/report/templates/report.html.j2", "", []),
        ("fedlab/system/tables/devices.csv", "", ["00_first", "01_second"]),
        ("fedlab/new.py", "", ["00_first", "01_second"]),
        ("data/table.csv", "1,3\n", ["00_first", "01_second"]),
        ("requirements.txt", "pytest==1.0\nruff==1.0\n", ["00_first", "01_second"]),
        ("data/cache/download.bin", "x", []),
        ("notes.txt", "x", []),
    ],
)
def test_what_a_number_depends_on_makes_it_run_again(root, play, path, text, runs):
    main([], root=root)
    play.played.clear()
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    assert main([], root=root) == 0
    assert sorted(play.played) == runs


def test_modules_of_the_page_exist():
    """All notebooks would run again for a change of look, if a listed module did not exist."""
    folder = PROJECT / "fedlab" / "lab" / "report"
    assert all((folder / name).is_file() for name in sources.PAGE_MODULES)
    assert any(path.suffix == ".j2" for path in sources.PAGE_SOURCES)


@pytest.mark.slow
def test_another_look_makes_new_pages_and_runs_nothing(root, play, monkeypatch, tmp_path_factory):
    look = tmp_path_factory.mktemp("look") / "report.html.j2"
    look.write_text("one")
    monkeypatch.setattr(sources, "HERE", look.parent)
    monkeypatch.setattr(sources, "PAGE_SOURCES", [look])
    main([], root=root)
    keys = run_of(root, "00_first")["page_key"]
    look.write_text("two")
    assert main([], root=root) == 0
    assert run_of(root, "00_first")["page_key"] != keys
    assert len(play.played) == 2


@pytest.mark.slow
def test_who_shows_the_course_runs_again_when_the_course_changes(root, play):
    write(
        root,
        "00_first",
        lesson("from fedlab.lab.course import course_map", text="# The first"),
    )
    main([], root=root)
    write(
        root, "01_second", [new_markdown_cell("# Renamed"), new_code_cell("2")], after=["00_first"]
    )
    assert main([], root=root) == 0
    assert sorted(play.played) == ["00_first", "00_first", "01_second"]


@pytest.mark.slow
def test_new_code_runs_only_its_own_notebook(root, play):
    main([], root=root)
    write(root, "00_first", lesson("1 + 2", text="# The first"))
    assert main(["01"], root=root) == 0
    assert re.findall(r'class="chip (.*?)"', (root / "reports" / "index.html").read_text()) == [
        "out of date",
        "pass",
    ]
    assert main([], root=root) == 0
    assert sorted(play.played) == ["00_first", "00_first", "01_second"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.html", "executed.ipynb", "metrics.json", "run.json"])
@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("{}")])
def test_a_harmed_report_is_made_anew(root, play, name, harm):
    main(["00"], root=root)
    harm(root / "reports" / "00_first" / name)
    assert main(["00"], root=root) == 0
    assert play.played == ["00_first"] * 2


@pytest.mark.slow
def test_a_failure_replaces_yesterdays_page_and_is_tried_again(root, play):
    main([], root=root)
    play.error = "cell [1]: no luck"
    assert main(["00", "--force"], root=root) == 1
    assert "no luck" in page_of(root, "00_first")
    play.error = ""
    assert main(["00"], root=root) == 0
    assert "no luck" not in page_of(root, "00_first")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["fir", "nope"], "no notebook fits 'nope'; there are 00_first, 01_second"),
        (["0_first"], None),
        (["frist"], "00_first, 01_second"),
        (["s"], "'s' must name one notebook, and fits 00_first, 01_second"),
        (["--set", "alpha"], "--set alpha must be NAME=VALUE, once per name"),
        (["--set", "alpha=1", "--set", "alpha=2"], "--set alpha=2"),
        (["--set", "alpa=1"], "no parameter 'alpa'; there are alpha, scale; did you mean alpha?"),
        (["1", "--set", "alpha=1"], "01_second: no parameter 'alpha'"),
        (["--set", "alpha=big"], "00_first: alpha='big' is not of type float"),
        (["--set", "alpha=0"], "00_first: alpha=0.0 lies outside 0.01 to 1000.0"),
        (["--scale", "slow"], "scale='slow' is not one of fast, full"),
        (["--check", "--scale", "full"], "Try it without --set and --scale"),
        (["--jobs", "0"], "--jobs 0"),
        (["--jobs", "many"], "invalid int value: 'many'"),
        (["--timeout", "0"], "--timeout 0 must be above 0 and finite"),
        (["--timeout", "nan"], "--timeout nan"),
        (
            ["--timeout", "inf"],
            "--timeout inf must be above 0 and finite",
        ),
        (["--what"], "--what"),
        (["00", "--force", "01", "02"], "no notebook fits '02'"),
    ],
)
def test_wrong_questions_get_one_line_and_run_nothing(root, play, capsys, argv, says):
    assert main(argv, root=root) == (2 if says else 0)
    err = capsys.readouterr().err
    if says:
        assert says in err
        assert len(err.splitlines()) == 1
        assert not play.played
        assert not (root / "reports").exists()


@pytest.mark.parametrize("name", ["00_first", "00", "0", "irs", "notebooks/00_first.ipynb"])
def test_a_notebook_is_found_by_name_number_or_piece(root, play, name):
    assert main([name], root=root) == 0
    assert play.played == ["00_first"]


@pytest.mark.slow
def test_who_took_longest_the_last_time_begins(root, play):
    main([], root=root)
    for name, seconds in {"00_first": 1.0, "01_second": 2.0}.items():
        path = root / "reports" / name / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": seconds}))
    play.played.clear()
    assert main(["--force"], root=root) == 0
    assert play.played == ["01_second", "00_first"]


def test_the_environment_is_as_before_when_all_have_run(root, play, monkeypatch):
    for name in ("FEDLAB_HEADLESS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before, inside = dict(os.environ), {}
    monkeypatch.setattr(
        execute,
        "execute_notebook",
        lambda *asked: [inside.update(os.environ), play(*asked)][1],
    )
    assert main(["--jobs", "2"], root=root) == 0
    assert inside["FEDLAB_HEADLESS"] == "1"
    assert int(inside["OMP_NUM_THREADS"]) == max(1, usable_cores() // 2)
    assert dict(os.environ) == before


def test_a_parameter_that_some_have_runs_those(root, play, capsys):
    assert main(["--set", "alpha=2"], root=root) == 0
    assert play.played == ["00_first--alpha=2.0"]
    assert "only in 00_first" in capsys.readouterr().out


def test_an_undocumented_parameter_is_refused(root, play, capsys):
    write(
        root,
        "00_first",
        [
            new_markdown_cell("# T"),
            new_code_cell("alpha: float = 1.0", metadata={"tags": ["parameters"]}),
        ],
    )
    assert main([], root=root) == 2
    assert "00_first.ipynb, cell 1: alpha needs a comment" in capsys.readouterr().err
    assert not play.played


def test_folder_names_are_safe_short_and_different(root):
    lesson = list_lessons(root / "notebooks")[0]
    slug = lambda **changed: Report(lesson, changed, root).slug  # noqa: E731
    assert (
        slug(alpha=0.1, scale="full")
        == slug(scale="full", alpha=0.1)
        == "00_first--alpha=0.1,scale=full"
    )
    slugs = [slug(note=note) for note in ("a/b", "a:b", "a b", "a_b", "é", "x" * 100, "x" * 101)]
    assert len(set(slugs)) == len(slugs)
    assert all(re.fullmatch(r"[A-Za-z0-9_.=,+-]{1,80}", each) for each in slugs)


LISTED = Parameter(
    "where", "list[str]", ["laptop"], choices=("phone, old", "laptop", "it's [new]", 'a "b"')
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"phone, old",laptop', ["phone, old", "laptop"]),
        ('["phone, old", "laptop"]', ["phone, old", "laptop"]),
        ("['phone, old', 'laptop']", ["phone, old", "laptop"]),
        ("laptop , it's [new]", ["laptop", "it's [new]"]),
    ],
)
def test_a_name_with_a_comma_is_quoted_in_a_list(text, value):
    assert parse_value(LISTED, text, "00") == value


def test_what_is_written_of_a_list_is_read_as_it_was():
    for value in (list(LISTED.choices), ["it's [new]"], ["laptop"]):
        assert parse_value(LISTED, format_argument(value), "00") == value
    assert format_argument([1.0, 0.5]) == "1,0.5"


@pytest.mark.parametrize("text", ["phone, old,laptop", '"phone, old', ""])
def test_a_list_that_cannot_be_read_says_how_to_write_it(text):
    with pytest.raises(
        ValueError, match=r"put a name with a comma in double quotes|an example is laptop"
    ):
        parse_value(LISTED, text, "00")


# -- gates


def played(*outputs, **metadata):
    return new_notebook(
        cells=[new_code_cell("x", execution_count=7, outputs=list(outputs))], metadata=metadata
    )


def shown(**data):
    return new_output("display_data", {**data, "text/plain": "x"})


def state(status="done  n=1", image="a"):
    return {"settings": {"n": 1}, "status": status, "image": image}


@pytest.mark.parametrize(
    ("executed", "fault"),
    [
        (played(), None),
        (played(shown(**{WIDGET: {}, PANEL: {"states": [state(), state(image="b")]}})), None),
        (played(shown(**{WIDGET: {}})), "never driven"),
        (
            played(shown(**{PANEL: {"states": [state()]}})),
            "same picture in every state, or has only one",
        ),
        (played(shown(**{PANEL: {"states": []}})), "only one"),
        (played(shown(**{PANEL: {"states": [state(), state()]}})), "same picture"),
        (
            played(shown(**{PANEL: {"states": [state(), state("failed  n=1", "b")]}})),
            "a panel says 'failed  n=1'",
        ),
        (played(new_output("stream", name="stderr", text="UserWarning: hm")), "wrote a warning"),
        (played(new_output("stream", name="stdout", text="a Warning")), None),
        (played(new_output("stream", name="stderr", text="50 %")), None),
        (
            played(new_output("error", ename="ValueError", evalue="no\nmore", traceback=[])),
            "cell [7]: ValueError: no",
        ),
        (
            played(shown(**record("a", 2.0, expected=(0, 1))._repr_mimebundle_())),
            "a: 2, expected 0 to 1: does not hold",
        ),
        (played(shown(**record("a", float("nan"))._repr_mimebundle_())), "a: not a number"),
        (played(*2 * [shown(**record("a", 1.0)._repr_mimebundle_())]), "recorded 2 times"),
    ],
)
def test_outputs_are_judged(executed, fault):
    faults = validate.find_faults(executed)
    assert len(faults) == bool(fault)
    assert not fault or fault in faults[0]


def test_an_error_hidden_in_a_widget_is_found():
    model = {
        "model_name": "OutputModel",
        "state": {"outputs": [{"output_type": "error", "ename": "KeyError", "evalue": "'n'"}]},
    }
    widgets = {
        "application/vnd.jupyter.widget-state+json": {
            "state": {"id": model, "other": {"state": {}}}
        }
    }
    assert validate.find_faults(played(widgets=widgets)) == ["in a widget: KeyError: 'n'"]


# -- what a page must not do, and what it cannot hold

HOSTILE = """<script>document.title = 'hacked'</script>
<script src="http://example.org/a.js"></script><iframe src="http://example.org"></iframe>
<img src=x onerror="document.title = 'hacked'"><img src="http://example.org/a.png">
<META http-equiv="refresh" content="0;url=http://example.org"><base href="http://example.org/">
<link rel="stylesheet" href="http://example.org/a.css">
<style>@import "http://example.org/b.css";</style>
<svg onload="document.title = 'hacked'"><image href="http://example.org/c.png"/></svg>
<form action="http://example.org">
<button autofocus onfocus="document.title = 'hacked'">go</button></form>"""


def rendered(root, *outputs, changed=None, **facts):
    """Return the page of a notebook with one cell that has these outputs, and facts of its run."""
    write(root, "00_first", lesson("x", text=f"# The first\n\n{HOSTILE}"))
    nb = nbformat.from_dict(load_notebook(root / "notebooks" / "00_first.ipynb"))
    nb.cells[-1].outputs, nb.cells[-1].execution_count = list(outputs), 1
    asked = Report(list_lessons(root / "notebooks")[0], changed or {}, root)
    run = {
        "status": "pass",
        "finished": "2026-01-01",
        "changed": changed or {},
        "parameters": {},
        "versions": {},
    }
    return render_page(asked, nb, run | {"seconds": 1.0, "reason": ""} | facts, [])


def test_the_head_of_another_setting_answers_from_its_own_panels(tmp_path):
    states = [
        state("done  n=1  accuracy=0.9  (2.0 s)"),
        state("done  n=1  round=9  mean of last ten: accuracy=0.7, loss=0.9  (2.0 s)", "b"),
    ]
    panel = shown(**{PANEL: {"states": states}})
    head = rendered(tmp_path, panel, changed={"alpha": 0.1}).split("<main")[0]
    assert "<li>round 9, mean of last ten: accuracy 0.7, loss 0.9</li>" in head
    assert "default setting" in head
    assert "accuracy 0.7" not in rendered(tmp_path, panel).split("<main")[0]


SENTENCES = ["Skew costs 11 points (5 to 19).", "1 < 2 % of it <b>comes</b> back."]


def test_the_head_begins_with_the_answer_and_the_numbers_stand_behind(tmp_path):
    head = rendered(tmp_path, answer=SENTENCES, headline="accuracy: 0.9").split("<main")[0]
    order = ["<h1>The first</h1>", "Why?", SENTENCES[0], 'class="chip pass"', "Parameters and"]
    assert [head.index(part) for part in order] == sorted(head.index(part) for part in order)
    assert "1 &lt; 2\N{NO-BREAK SPACE}% of it &lt;b&gt;comes&lt;/b&gt; back." in head
    assert "accuracy: 0.9" not in head
    assert "declares no answer" not in head
    assert "for-default" not in head.partition("<body>")[2]


def test_without_an_answer_the_head_says_so_and_shows_the_headline(tmp_path):
    for facts in ({}, {"answer": []}):
        head = rendered(tmp_path, headline="accuracy: 0.9 < 1", **facts).split("<main")[0]
        assert "<p>accuracy: 0.9 &lt; 1</p>" in head
        assert "This notebook declares no answer: end it with <code>answer(...)</code>." in head
    stopped = rendered(tmp_path, headline=None, status="error").split("<main")[0]
    assert "declares no answer" not in stopped


def test_another_setting_is_said_first_and_marks_what_the_default_says(tmp_path):
    page = rendered(tmp_path, changed={"alpha": 0.1}, answer=SENTENCES)
    body = page.partition("<body>")[2]
    note, title = body.index("Another setting than the lesson"), body.index("<h1>")
    assert note < body.index('<div class="for-default">') < title < body.index(SENTENCES[0])
    assert "<code>alpha = 0.1</code> instead of <code>1.0</code>." in body
    assert '<main class="elsewhere">' in body
    assert 'class="chip pass"' not in body


def test_a_page_runs_its_own_script_only_and_leads_nowhere(tmp_path):
    text = rendered(tmp_path, shown(**{"text/html": HOSTILE}))
    head, body = text.split("<body>")
    policy = re.search(r'<meta content="(.*?)" http-equiv="Content-Security-Policy"', head)[1]
    script = re.findall(r"<script>(.*?)</script>", body, re.DOTALL)[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "base-uri 'none'" in policy
    assert not re.search(r"<(meta|base|link)\b", body, re.IGNORECASE)
    assert head.index("Content-Security-Policy") < head.index("<style>")


@pytest.mark.slow
def test_too_long_outputs_are_cut_with_a_note(tmp_path):
    long = "line of a loop that prints\n" * 2_000_000
    heavy = [shown(**{"text/html": f"<p>{'x' * 9_000_000}</p>"}) for _ in range(3)]
    streams = [
        new_output("stream", text=long),
        new_output("stream", text="and more"),
        new_output("stream", text=""),
    ]
    text = rendered(tmp_path, *streams, *heavy, new_output("stream", name="stderr", text="the end"))
    assert len(text) < 22_000_000
    assert "54,000,000 characters are printed here, and 200,000 shown" in text
    assert "an output of 9,000,008 characters is left out: the page would be too heavy" in text
    assert "line of a loop" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", ["5", "[]", "{", '"x"', '{"status": "pass"}', "[" * 100_000, "null"]
)
def test_a_malformed_record_of_a_run_is_said_in_a_line_and_the_rest_goes_on(
    root, play, capsys, damage
):
    assert main(["00", "--set", "alpha=2"], root=root) == 0
    main([], root=root)
    for slug in ("00_first", "00_first--alpha=2.0"):
        (root / "reports" / slug / "run.json").write_text(damage)
    play.played.clear()
    capsys.readouterr()
    assert main([], root=root) == 0
    assert play.played == ["00_first"], "made anew; the other one is left as it is"
    where = "reports/00_first--alpha=2.0/run.json"
    assert capsys.readouterr().err.splitlines() == [
        f"report: {where}: malformed, so its report is left out; make it again or delete its folder"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        {"files": 5},
        {"files": {"../../../etc/passwd": "x"}},
        {"seconds": None},
        {"seconds": math.nan},
        {"changed": []},
    ],
)
def test_a_record_with_a_wrong_part_is_made_anew(root, play, damage):
    main([], root=root)
    path = root / "reports" / "00_first" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    assert main([], root=root) == 0
    assert play.played.count("00_first") == 2


@pytest.mark.parametrize("damage", ["5", "{}", '{"parameters": {}, "metrics": [5]}'])
def test_malformed_committed_numbers_are_said_and_replaced(root, play, capsys, damage):
    main([], root=root)
    path = root / "reports" / "metrics" / "01_second.json"
    path.write_text(damage)
    assert main(["--check"], root=root) == 1
    assert (
        "01_second: its numbers are malformed; run without --check and commit reports/metrics"
        in capsys.readouterr().err
    )
    assert path.read_text() == damage
    assert main([], root=root) == 0
    assert committed(root) == 0.9


def test_names_with_marks_make_a_report_that_can_be_found(root, play):
    write(root, "00_first", lesson("x", text="# The first"))
    source = 'note: str = "x"  # anything\nalpha: float = 1.0  # [0.01 to 1000] how even\n'
    cells = [
        new_markdown_cell("# The first"),
        new_code_cell(source, metadata={"tags": ["parameters"]}),
        new_code_cell("x"),
    ]
    write(root, "00_first", cells)
    value = "a/b='c' \"d\" <e> & f"
    assert main(["00", "--set", f"note={value}"], root=root) == 0
    (folder,) = (root / "reports").glob("00_first--*")
    page = page_of(root, folder.name)
    assert "note = a/b='c' \"d\" &lt;e&gt; &amp; f" in page
    assert "<e>" not in page
    assert (
        f'href="{quote(folder.name)}/report.html"' in (root / "reports" / "index.html").read_text()
    )
    assert main(["00", "--set", f"note={value}"], root=root) == 0
    assert len(play.played) == 1


# -- committed numbers


def committed(root):
    return json.loads((root / "reports" / "metrics" / "01_second.json").read_text())["metrics"][0][
        "mean"
    ]


@pytest.mark.slow
def test_committed_numbers_follow_real_changes_only(root, play):
    main([], root=root)
    play.value = 0.91
    assert main(["--force"], root=root) == 0
    assert committed(root) == 0.9  # within its tolerance: git stays clean
    play.value = 0.95
    assert main(["--force"], root=root) == 0
    assert committed(root) == 0.95
    play.value = 0.1
    assert main(["--force"], root=root) == 1
    assert committed(root) == 0.95


def test_check_compares_and_writes_nothing(root, play, capsys):
    assert main(["--check"], root=root) == 1
    assert capsys.readouterr().err.count("its numbers are not committed") == 2
    assert contents(root / "reports" / "metrics") == {}
    main([], root=root)
    assert main(["--check"], root=root) == 0
    before = contents(root / "reports" / "metrics")
    play.value = 0.95
    assert main(["01", "--check", "--force"], root=root) == 1
    err = capsys.readouterr().err
    assert err == "report: 01_second: 'a' has moved: committed 0.9, now 0.95, tolerance 0.02\n"
    assert contents(root / "reports" / "metrics") == before


# -- bad surroundings


def test_a_file_where_reports_belong(root, play, capsys):
    (root / "reports").write_text("mine")
    assert main([], root=root) == 1
    err = capsys.readouterr().err
    assert str(root / "reports") in err
    assert "a file stands where" in err
    assert len(err.splitlines()) == 1
    assert not play.played
    assert (root / "reports").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_is_said_before_anything_runs(
    root, play, capsys, monkeypatch, number
):
    main([], root=root)
    before = contents(root)
    monkeypatch.setattr(
        Path, "write_bytes", lambda self, _: raise_(OSError(number, os.strerror(number)))
    )
    assert main(["--force"], root=root) == 1
    err = capsys.readouterr().err
    assert os.strerror(number) in err
    assert ("free some space" in err) == (number == errno.ENOSPC)
    assert len(err.splitlines()) == 1
    assert len(play.played) == 2
    assert contents(root) == before


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_nothing(root, play, capsys, monkeypatch):
    main([], root=root)
    before = contents(root)
    write_bytes = Path.write_bytes

    def full(self, content):
        if "metrics.json" in self.name:
            write_bytes(self, content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["--force"], root=root) == 1
    assert "free some space" in capsys.readouterr().err
    assert contents(root) == before


def test_the_checksums_are_replaced_last(root, play, monkeypatch):
    replaced, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda draft, path: (replaced.append(path.name), replace(draft, path))
    )
    main(["00"], root=root)
    assert replaced[:4] == ["report.html", "executed.ipynb", "metrics.json", "run.json"]


def raise_(error):
    raise error


def test_no_kernel_is_one_line(root, play, capsys, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    monkeypatch.setattr(
        KernelSpecManager, "get_kernel_spec", lambda self, name: raise_(NoSuchKernel(name))
    )
    assert main([], root=root) == 1
    assert capsys.readouterr().err.splitlines() == [
        "report: no Jupyter kernel named python3; install it: python -m pip install ipykernel"
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("step", range(8))
def test_killed_at_any_step_every_file_is_whole(tmp_path, step):
    """Four drafts are written, then four files replaced; the process dies within one step."""
    names = ["report.html", "executed.ipynb", "metrics.json", "run.json"]
    old, new = (
        {name: f"{name} {age} ".encode() * 1000 for name in names} for age in ("old", "new")
    )
    files.publish(tmp_path, old)
    code = """
import os, signal, sys
from pathlib import Path
from fedlab.lab.report import files
folder, step, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
steps, write, replace = iter(range(8)), Path.write_bytes, os.replace
def halfway(self, content):
    if next(steps) == step:
        write(self, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, content)
def kill_then(draft, path):
    if next(steps) == step:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(draft, path)
Path.write_bytes, os.replace = halfway, kill_then
files.publish(folder, {name: f"{name} new ".encode() * 1000 for name in names})
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, str(step), *names], env=environment()
    )
    assert done.returncode == -signal.SIGKILL
    saved = {name: (tmp_path / name).read_bytes() for name in names}
    assert [saved[name] in (old[name], new[name]) for name in names] == [True] * 4
    assert saved["run.json"] == old["run.json"]
    assert list(tmp_path.glob(".*.tmp"))
    files.remove_drafts(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_draft_of_a_living_process_is_left(tmp_path):
    draft = tmp_path / f".run.json.{os.getpid()}.tmp"
    draft.write_text("soon")
    files.remove_drafts(tmp_path)
    assert draft.exists()


# -- speed


@pytest.mark.slow
def test_nothing_to_run_is_quick(root, play):
    """Neither papermill nor nbconvert nor torch is imported to find that nothing changed."""
    main([], root=root)
    heavy = ["papermill", "nbconvert", "nbformat", "torch", "pandas", "matplotlib"]
    code = (
        "import sys; from pathlib import Path; from fedlab.lab.report.make import main; "
        "status = main([], root=Path(sys.argv[1])); "
        f"print([m for m in {heavy} if m in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
