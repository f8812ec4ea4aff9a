import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from fedlab.data import cache, load_texts, text

ROOT = Path(__file__).parents[2]


def real(name):
    return pytest.mark.skipif(bool(cache.missing(name)), reason=f"no {name} in {cache.folder(name)}: see data/README.md")


def test_documentation_is_prose_by_topic():
    docs = load_texts("docs")
    every = [*docs.texts, *docs.test[0]]
    assert len(docs.classes) == 14
    assert len({one.lower() for one in every}) == len(every), "no paragraph twice"
    assert all(12 <= len(one.split()) <= 80 for one in every)
    assert not any(">>>" in one or "`" in one or "\n" in one for one in every)
    count = np.bincount(docs.labels, minlength=14) + np.bincount(docs.test[1], minlength=14)
    assert count.min() >= 290
    share = np.bincount(docs.test[1], minlength=14) / count
    assert (abs(share - 0.2) < 0.01).all()
    assert {"scipy.stats", "torch.nn"} <= set(docs.owner)


def test_documentation_is_that_of_the_recorded_versions():
    """Of the packages, that is; Python's own library has the version of the interpreter."""
    readme = (ROOT / "data" / "README.md").read_text()
    docs = load_texts("docs")
    every = zip([*docs.texts, *docs.test[0]], [*docs.labels, *docs.test[1]], strict=True)
    mine = sorted(one for one, label in every if docs.classes[label] in text.PACKAGES)
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    packages = {place.split("/")[0] for places in text.PACKAGES.values() for place in places.split()}
    named = {"sklearn": "scikit-learn"}
    assert all(version(named.get(name, name)).split("+")[0] == pins[named.get(name, name)] for name in packages)
    digest = hashlib.sha256("\0".join(mine).encode()).hexdigest()
    assert f"| `docs`, of the packages | {len(mine):,} | `{digest}` |" in readme
    if sys.version_info[:2] == (3, 11):
        assert f"{len(docs.texts) + len(docs.test[0]) - len(mine):,} paragraphs of Python 3.11's" in readme


def test_so_many_of_each_class_are_always_the_same():
    docs, few, more = (load_texts("docs", n) for n in (None, 30, 100))
    assert (np.bincount(few.labels) == 24).all()
    assert (np.bincount(few.test[1]) == 6).all()
    assert set(few.texts) < set(more.texts) < set(docs.texts)
    assert set(few.test[0]) < set(docs.test[0])
    assert few.checksum == load_texts("docs", 30).checksum != more.checksum
    where = {one: (label, owner) for one, label, owner in zip(docs.texts, docs.labels, docs.owner, strict=True)}
    assert all(where[a] == (b, c) for a, b, c in zip(few.texts, few.labels, few.owner, strict=True))


def test_the_largest_owners():
    docs, few = load_texts("docs"), load_texts("docs", owners=5)
    names, count = np.unique(docs.owner, return_counts=True)
    assert sorted(np.unique(few.owner, return_counts=True)[1]) == sorted(count)[-5:]
    assert set(few.owner) <= set(names)


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        (f"{'Word ' * 11}end.", ["Word " * 11 + "end."]),
        (f"{'Word ' * 10}end.", []),
        (f"{'Word ' * 80}end.", []),
        (f"A :class:`~a.b.Name <x>` and ``code`` of {'word ' * 8}end.", ["A a.b.Name and code of " + "word " * 8 + "end."]),
        (f"x : int\n{'Word ' * 11}end.", ["Word " * 11 + "end."]),
        (f">>> x = 1\n{'Word ' * 11}end.", []),
        (f".. note:: {'word ' * 12}", []),
        ("a | b | " + "word " * 12, []),
        ("1 2 3 4 5 6 " * 3, []),
    ],
)
def test_prose(docstring, found):
    assert text.prose(docstring) == found


@real("banking77")
def test_banking77():
    bank = load_texts("banking77")
    assert (len(bank.texts), len(bank.test[0]), len(bank.classes)) == (10_003, 3_080, 77)
    assert bank.texts[0] == "I am still waiting on my card?"
    assert bank.classes[bank.labels[0]] == "card arrival"
    assert (np.bincount(bank.test[1]) == 40).all()


@real("shakespeare")
def test_shakespeare_by_speaker():
    plays = load_texts("shakespeare")
    assert plays.classes == ()
    assert len(plays.texts) + len(plays.test[0]) == 7_097
    everyone = dict(zip(*np.unique(plays.owner, return_counts=True), strict=True))
    assert everyone["GLOUCESTER"] > 100
    assert "All:\n" not in "".join(plays.texts)
    with pytest.raises(ValueError, match="per_class=3: shakespeare has no classes; take owners="):
        load_texts("shakespeare", per_class=3)


def test_ag_news_in_its_published_form(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    monkeypatch.setitem(cache.FILES, "ag_news", {})
    (tmp_path / "ag_news").mkdir()
    (tmp_path / "ag_news" / "train.csv").write_text('"3","Oil up","Prices ""rose""\\again"\n"1","War","Peace"\n')
    (tmp_path / "ag_news" / "test.csv").write_text('"4","Mars","A rover"\n')
    text._ag_news.cache_clear()
    news = load_texts("ag_news")
    text._ag_news.cache_clear()
    assert news.texts == ['Oil up Prices "rose" again', "War Peace"]
    assert [news.classes[i] for i in news.labels] == ["Business", "World"]
    assert news.test[0] == ["Mars A rover"]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("doc",), "no set of texts 'doc': there are docs, banking77, ag_news, shakespeare"),
        (("docs", 5000), r"per_class=5000: '.*' of docs has \d+; take fewer"),
        (("docs", 0), "per_class=0: it is a whole number of at least 1"),
        (("docs", None, 10_000), r"owners=10000: docs has \d+; take as many at most"),
    ],
)
def test_wrong_calls(call, told):
    with pytest.raises(ValueError, match=f"^{told}$"):
        load_texts(*call)


def test_a_missing_set_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    told = "banking77: .*train.csv is not there; `python -m fedlab.data banking77` fetches 1.1 MB, and 'docs' works without"
    with pytest.raises(FileNotFoundError, match=told):
        load_texts("banking77")
