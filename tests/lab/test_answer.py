"""An answer is declared once, in plain sentences whose digits and words follow the numbers."""

import json
import re

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fedlab.lab.course import list_lessons
from fedlab.lab.report import amount, answer, direction, percent, points, validate, write
from fedlab.lab.report.answer import ANSWER, read_answer
from fedlab.lab.report.files import is_run
from fedlab.lab.report.frame import script_hash
from fedlab.lab.report.index import render_index
from fedlab.lab.report.jobs import Report
from fedlab.lab.report.sources import Sources
from fedlab.study.statistics import mean_interval

SENTENCES = ("Skew costs 11 points (5 to 19).", "FedDyn wins back 9 < 11.")


def executed(*bundles):
    outputs = [new_output("display_data", bundle) for bundle in bundles]
    return new_notebook(cells=[new_code_cell("x", execution_count=1, outputs=outputs)])


def test_an_answer_shows_and_stores_its_sentences():
    bundle = answer(*SENTENCES)._repr_mimebundle_()
    assert bundle[ANSWER] == {"sentences": list(SENTENCES)}
    assert bundle["text/plain"] == " ".join(SENTENCES)
    assert bundle["text/html"].startswith('<p class="fedlab-answer">Skew')
    assert "9 &lt; 11" in bundle["text/html"]
    assert read_answer(executed(bundle)) == list(SENTENCES)
    assert read_answer(executed({"text/plain": "x"})) == []
    assert str(answer(" broken\n  line. ")) == "broken line."


@pytest.mark.parametrize(
    ("sentences", "says"),
    [
        ((), "sentences=0 must be 1 to 3"),
        (("a.",) * 4, "sentences=4 must be 1 to 3"),
        (("a.", " "), "sentence=' ' must be text"),
        ((1.5,), "sentence=1.5 must be text"),
        (("It costs nan points.",), "must not hold 'nan'"),
        (("It costs -inf %.",), "must not hold '-inf'"),
    ],
)
def test_no_answer_without_plain_sentences(sentences, says):
    with pytest.raises(ValueError, match=says):
        answer(*sentences)


def test_words_that_only_contain_nan_are_no_numbers():
    assert answer("Finance and information gain.").sentences == ("Finance and information gain.",)


def test_two_answers_are_a_fault_and_a_malformed_one_is_none():
    bundle = answer(*SENTENCES)._repr_mimebundle_()
    assert validate.find_faults(executed(bundle)) == []
    (fault,) = validate.find_faults(executed(bundle, bundle))
    assert fault.startswith("answer is declared 2 times and must be declared once")
    for damaged in (5, {}, {"sentences": "text"}, {"sentences": []}, {"sentences": ["a", 1]}):
        notebook = executed({ANSWER: damaged, "text/plain": "x"})
        assert read_answer(notebook) == []
        assert validate.find_faults(notebook) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (points(0.112), "11 points"),
        (points([0.08, 0.13, 0.12]), "11 points (4 to 18)"),
        (points([0.004, -0.002, 0.009]), "0.4 points (-1.0 to 1.7)"),
        (points([0.004, -0.12, 0.13]), "0 points (-31 to 32)"),
        (points(np.float32(0.01)), "1 point"),
        (points([0.09, 0.09, 0.09]), "9 points"),
        (points(-1e-9), "0 points"),
        (percent(np.array([0.90, 0.91, 0.92])), "91 % (89 to 93)"),
        (percent([0.99, 1.0, 0.995]), "99.5 % (98.3 to 100.0)"),
        (percent(0.8800000000000001), "88 %"),
        (percent(1.2), "120 %"),
        (amount([4.1, 4.2, 4.3], "MB"), "4.2 MB (4.0 to 4.4)"),
        (amount(0.00042, "s"), "0.00042 s"),
        (amount(9.96, "MB"), "10 MB"),
        (amount([1234.5, 1300, 1350], "s"), "1,290 s (1,150 to 1,440)"),
        (amount(6_738_415_616, "parameters"), "6,738,415,616 parameters"),
        (amount(3, ""), "3"),
    ],
)
def test_digits_follow_the_interval(text, expected):
    assert text == expected


@pytest.mark.parametrize("write", [points, percent, lambda values: amount(values, "MB")])
@pytest.mark.parametrize("values", [[], [float("nan"), 1.0], float("inf")])
def test_what_is_no_number_is_refused(write, values):
    with pytest.raises(ValueError, match="must be finite numbers"):
        write(values)


def test_an_interval_needs_two_values_and_a_coverage():
    with pytest.raises(ValueError, match="values=1 must be at least 2"):
        mean_interval([0.1])
    with pytest.raises(ValueError, match="confidence=1 must be"):
        mean_interval([0.1, 0.2], 1)


def test_the_phrase_is_what_the_seeds_support():
    def words(values):
        return direction(values, "wins", "loses", "decides nothing")

    assert words([0.08, 0.12, 0.11]) == "wins"
    assert words([-0.08, -0.12, -0.11]) == "loses"
    assert words([0.1, -0.05, 0.2]) == "decides nothing"
    assert (words(0.1), words(-0.1), words(0)) == ("wins", "loses", "decides nothing")


# -- in files, and on the index

RUN = {
    "key": "k",
    "page_key": "p",
    "status": "pass",
    "reason": "",
    "finished": "2026-01-01T00:00:00+00:00",
    "parameters": {"alpha": 0.1},
    "changed": {},
    "versions": {},
    "seconds": 1.0,
}


@pytest.fixture
def root(tmp_path):
    about = {"question": "Why?", "minutes": 0.1, "after": []}
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("alpha: float = 1.0  # how even", metadata={"tags": ["parameters"]}),
    ]
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "00_first.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"fedlab": about}), path)
    return tmp_path


def card_of(root, *bundles, changed=None, **facts):
    """Write a report with these outputs and return its run and its card."""
    (lesson,) = lessons = list_lessons(root / "notebooks")
    report = Report(lesson, changed or {}, root)
    write.write_report(report, executed(*bundles), RUN | {"changed": changed or {}} | facts)
    page, left_out = render_index(root, lessons, Sources.of(root, lessons))
    assert left_out == []
    run = json.loads((report.folder / "run.json").read_text())
    cards = page.split("<article>")[1:]
    return run, next(card for card in cards if bool(changed) == ("Another setting" in card))


def test_the_card_shows_the_answer_and_not_the_raw_number(root):
    from fedlab.lab.report import record

    number = record("accuracy", [0.5, 0.88], headline=True)._repr_mimebundle_()
    run, card = card_of(root, number, answer(*SENTENCES)._repr_mimebundle_())
    assert run["answer"] == list(SENTENCES)
    assert run["headline"].startswith("accuracy: 0.690")
    assert f"<strong>{SENTENCES[0]}</strong> FedDyn wins back 9 &lt; 11." in card
    assert "accuracy" not in card
    assert card.index("Title") < card.index("Why?") < card.index(SENTENCES[0]) < card.index("chip")
    run, card = card_of(root, number)
    assert run["answer"] == []
    assert "<strong>accuracy: 0.690 (0.500 to 0.880 over 2 seeds)</strong>" in card


def test_the_card_of_another_setting_says_what_differs(root):
    bundle = answer(*SENTENCES)._repr_mimebundle_()
    _, card = card_of(root, bundle, changed={"alpha": 0.1})
    assert "<code>alpha = 0.1</code> instead of <code>1.0</code>" in card
    marked = card[card.index('class="for-default"') :]
    assert marked.index("Title") < marked.index("Why?") < marked.index(SENTENCES[0])
    assert 'class="chip pass"' not in card


def test_the_index_runs_its_own_script_only(root):
    lessons = list_lessons(root / "notebooks")
    page, _ = render_index(root, lessons, Sources.of(root, lessons))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)[1]
    hashes = [script_hash(script) for script in re.findall(r"<script>(.*?)</script>", page, re.S)]
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert policy.startswith("default-src 'none'; ")


def test_two_answers_lose_no_file_of_the_report(root):
    bundle = answer(*SENTENCES)._repr_mimebundle_()
    run, _ = card_of(root, bundle, bundle, status="fail", reason="answer is declared 2 times")
    assert run["answer"] == []
    assert {"report.html", "executed.ipynb", "metrics.json"} <= run["files"].keys()


def test_a_run_of_before_is_read_and_a_damaged_answer_is_not():
    run = RUN | {"files": {}, "headline": None}
    assert is_run(run)
    assert is_run(run | {"answer": []})
    assert is_run(run | {"answer": list(SENTENCES)})
    assert not any(is_run(run | {"answer": bad}) for bad in (5, "text", [1], ["a"] * 4, None))
