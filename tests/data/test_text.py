import hashlib
import re
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedlab.data import cache, load_texts, read_texts
from fedlab.data.sources import documentation, published_texts
from fedlab.data.text import Texts
from fedlab.models import pretrain, tiny, token_prediction
from fedlab.models.language import tokenize

ROOT = Path(__file__).parents[2]


def real(name):
    return pytest.mark.skipif(
        bool(cache.missing(name)), reason=f"no {name} in {cache.folder(name)}: see data/README.md"
    )


@pytest.mark.slow
def test_documentation_is_prose_by_topic():
    docs = load_texts("docs")
    every = [*docs.texts, *docs.test[0]]
    assert len(docs.classes) == 14
    assert len({text.lower() for text in every}) == len(every), "no paragraph twice"
    assert all(12 <= len(text.split()) <= 80 for text in every)
    assert not any(">>>" in text or "`" in text or "\n" in text for text in every)
    count = np.bincount(docs.labels, minlength=14) + np.bincount(docs.test[1], minlength=14)
    assert count.min() >= 290
    share = np.bincount(docs.test[1], minlength=14) / count
    assert (abs(share - 0.2) < 0.01).all()
    assert {"scipy.stats", "torch.nn"} <= set(docs.owner)


@pytest.mark.slow
def test_documentation_is_that_of_the_recorded_versions():
    """The packages' texts have the recorded checksum; Python's library has any version."""
    readme = (ROOT / "data" / "README.md").read_text()
    docs = load_texts("docs")
    every = zip([*docs.texts, *docs.test[0]], [*docs.labels, *docs.test[1]], strict=True)
    paragraphs = sorted(
        text for text, label in every if docs.classes[label] in documentation.PACKAGES
    )
    pins = dict(
        line.split("==")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    )
    packages = {
        place.split("/")[0]
        for places in documentation.PACKAGES.values()
        for place in places.split()
    }
    named = {"sklearn": "scikit-learn"}
    assert all(
        version(named.get(name, name)).split("+")[0] == pins[named.get(name, name)]
        for name in packages
    )
    digest = hashlib.sha256("\0".join(paragraphs).encode()).hexdigest()
    assert f"| `docs`, of the packages | {len(paragraphs):,} | `{digest}` |" in readme
    if sys.version_info[:2] == (3, 11):
        count = len(docs.texts) + len(docs.test[0]) - len(paragraphs)
        assert f"Python 3.11's own library adds {count:,} paragraphs" in readme


def test_so_many_of_each_class_are_always_the_same():
    docs, few, more = (load_texts("docs", n) for n in (None, 30, 100))
    assert (np.bincount(few.labels) == 24).all()
    assert (np.bincount(few.test[1]) == 6).all()
    assert set(few.texts) < set(more.texts) < set(docs.texts)
    assert set(few.test[0]) < set(docs.test[0])
    assert few.checksum == load_texts("docs", 30).checksum != more.checksum
    where = {
        text: (label, owner)
        for text, label, owner in zip(docs.texts, docs.labels, docs.owner, strict=True)
    }
    assert all(where[a] == (b, c) for a, b, c in zip(few.texts, few.labels, few.owner, strict=True))


def test_the_largest_owners():
    docs, few = load_texts("docs"), load_texts("docs", owners=5)
    names, count = np.unique(docs.owner, return_counts=True)
    assert sorted(np.unique(few.owner, return_counts=True)[1]) == sorted(count)[-5:]
    assert set(few.owner) <= set(names)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (f"{'Word ' * 11}end.", ["Word " * 11 + "end."]),
        (f"{'Word ' * 10}end.", []),
        (f"{'Word ' * 80}end.", []),
        (
            f"A :class:`~a.b.Name <x>` and ``code`` of {'word ' * 8}end.",
            ["A a.b.Name and code of " + "word " * 8 + "end."],
        ),
        (f"x : int\n{'Word ' * 11}end.", ["Word " * 11 + "end."]),
        (f">>> x = 1\n{'Word ' * 11}end.", []),
        (f".. note:: {'word ' * 12}", []),
        ("a | b | " + "word " * 12, []),
        ("1 2 3 4 5 6 " * 3, []),
    ],
)
def test_prose(docstring, expected):
    assert documentation.prose(docstring) == expected


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
    with pytest.raises(
        ValueError, match=r"per_class=3 must be None \(shakespeare has no classes\)\. Try owners=10"
    ):
        load_texts("shakespeare", per_class=3)


def test_ag_news_in_its_published_form(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    monkeypatch.setitem(cache.FILES, "ag_news", {})
    (tmp_path / "ag_news").mkdir()
    (tmp_path / "ag_news" / "train.csv").write_text(
        '"3","Oil up","Prices ""rose""\\again"\n"1","War","Peace"\n'
    )
    (tmp_path / "ag_news" / "test.csv").write_text('"4","Mars","A rover"\n')
    published_texts._ag_news.cache_clear()
    news = load_texts("ag_news")
    published_texts._ag_news.cache_clear()
    assert news.texts == ['Oil up Prices "rose" again', "War Peace"]
    assert [news.classes[i] for i in news.labels] == ["Business", "World"]
    assert news.test[0] == ["Mars A rover"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            ("doc",),
            (
                r"name='doc' must be one of docs, banking77, ag_news, shakespeare \(.*\)\. "
                r"Try read_texts .*"
            ),
        ),
        (
            ("docs", 5000),
            (
                r"per_class=5000 must be smaller \(class '.*' of docs has \d+ texts\)\. "
                r"Try per_class=2500"
            ),
        ),
        (("docs", 0), "per_class=0 must be a whole number of at least 1. Try 1"),
        (
            ("docs", None, 10_000),
            r"owners=10000 must be at most (\d+) \(docs has no more owners\)\. Try owners=\1",
        ),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        load_texts(*call)


def test_a_missing_set_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_DATA", str(tmp_path))
    message = (
        r"banking77 must be fetched first \(.*train\.csv is not there\)\. Try `python "
        r"-m fedlab data banking77`, which fetches 1\.1 MB, or load_texts\('docs'\), "
        r"which needs no network"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_texts("banking77")


# Texts that people hold

ROWS = [
    {
        "text": f"Mail {k} of {who}",
        "label": ["ham", "spam"][k % 2],
        "owner": who,
        "prompt": f"Ask {k}",
        "response": f"Say {k}",
    }
    for who, many in [("ann", 20), ("bob", 11), ("cy", 1)]
    for k in range(many)
]
FRAME = pd.DataFrame(ROWS)


def in_a_file(path, frame):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        frame.to_csv(path, index=False, sep="\t")
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return path


@pytest.mark.parametrize("suffix", ["CSV", "Tsv", "JSONL", "Json"])
def test_the_end_of_a_name_may_be_in_capitals(tmp_path, suffix):
    in_a_file(tmp_path / f"mails.{suffix.lower()}", FRAME).rename(tmp_path / f"mails.{suffix}")
    assert len(read_texts(tmp_path / f"mails.{suffix}", test=0.5).texts) == 16


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "frame", "rows"])
def test_own_texts_in_one_call(tmp_path, suffix):
    source = {"frame": FRAME, "rows": ROWS}.get(suffix)
    source = in_a_file(tmp_path / f"mails.{suffix}", FRAME) if source is None else source
    mails = read_texts(source, label="label", owner="owner")
    assert mails.name == ("mails" if suffix not in ("frame", "rows") else "texts")
    assert mails.classes == ("ham", "spam")
    assert sorted([*mails.texts, *mails.test[0]]) == sorted(FRAME["text"])
    for texts, labels, owners in [(mails.texts, mails.labels, mails.owner), mails.test[:3]]:
        assert [mails.classes[label] for label in labels] == [
            ["ham", "spam"][int(text.split()[1]) % 2] for text in texts
        ]
        assert [text.split()[-1] for text in texts] == owners.tolist()


def test_each_owner_has_its_own_test_share():
    mails = read_texts(FRAME, label="label", owner="owner")
    held = pd.Series(mails.test.owner).value_counts()
    assert held["ann"] == 4
    assert held["bob"] in (2, 3)
    assert "cy" not in held, "an owner's only text trains"
    by_label = pd.crosstab(mails.test.owner, mails.test[1])
    assert by_label.loc["ann"].tolist() == [2, 2]
    assert mails.checksum == read_texts(ROWS, label="label", owner="owner").checksum


def test_prompts_and_responses():
    chat = read_texts(FRAME, prompt="prompt", response="response", owner="owner", test=0.25)
    assert chat.classes == ()
    assert not chat.labels.any()
    assert chat.texts == [f"{a}\n{b}" for a, b in zip(chat.prompts, chat.responses, strict=True)]
    assert chat.test[0] == [
        f"{a}\n{b}" for a, b in zip(chat.test.prompts, chat.test.responses, strict=True)
    ]
    assert all(
        a.removeprefix("Ask") == b.removeprefix("Say")
        for a, b in zip(chat.prompts, chat.responses, strict=True)
    )


def test_a_test_set_of_its_own_and_texts_without_owners(tmp_path):
    path = in_a_file(tmp_path / "held.csv", FRAME.iloc[:7])
    mails = read_texts(FRAME.iloc[7:], label="label", test=path)
    assert (len(mails.texts), len(mails.test[0])) == (25, 7)
    assert set(mails.owner) == {"everyone"}
    assert mails.test.owner is None


def test_cells_of_a_file_are_texts_as_they_stand(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufefftext,label\nNA,1\nnull,0\n"one, ""two""\nthree",10\n007,1\n', "utf-8")
    texts = read_texts(path, label="label", test=0.25)
    assert {*texts.texts, *texts.test[0]} == {"NA", "null", 'one, "two"\nthree', "007"}
    assert len(texts.classes) == 11


def test_a_text_in_both_sets_is_told(caplog):
    read_texts(pd.concat([FRAME] * 2), test=0.5)
    (record,) = caplog.records
    assert re.match(
        r"texts: \d+ of \d+ test texts are training texts, too\. "
        r"Try frame\.drop_duplicates\('text'\)",
        record.getMessage(),
    )
    caplog.clear()
    read_texts(pd.concat([FRAME] * 2).drop_duplicates("text"), test=0.5)
    assert not caplog.records


BLANK = FRAME.assign(response=FRAME["response"].where(FRAME.index != 3, ""))
CHAT = pd.DataFrame(
    {
        "turns": [
            [{"role": "user", "content": f"Ask {k}"}, {"role": "assistant", "content": "Yes"}]
            for k in range(9)
        ]
    }
)
BROKEN = {
    "no such column": (
        lambda path: read_texts(FRAME, "txt"),
        (
            r"text='txt' must be a column of the table \(there are \['text', 'label', "
            r"'owner', 'prompt', 'response'\]\)\. Try text='text'"
        ),
        lambda path: read_texts(FRAME, text="text"),
    ),
    "no response": (
        lambda path: read_texts(FRAME, prompt="prompt"),
        (
            r"prompt='prompt' and response=None must both be columns, or both None\. Try "
            r"prompt='prompt', response='response'"
        ),
        None,
    ),
    "a missing text": (
        lambda path: read_texts(FRAME.assign(text=FRAME["text"].where(FRAME.index != 3))),
        (
            r"column 'text' of the table must hold a text in row 3, and it holds nan \(1 "
            r"of 32 rows have none\)\. Try frame\[frame\['text'\]\.notna\(\)\], or to "
            r"fill it"
        ),
        lambda path: read_texts(
            (f := FRAME.assign(text=FRAME["text"].where(FRAME.index != 3)))[f["text"].notna()]
        ),
    ),
    "an empty text": (
        lambda path: read_texts(FRAME.assign(text=["a", " "] * 16)),
        (
            r"column 'text' of the table must hold a text in row 1, and it holds ' ' \(16 "
            r"of 32 rows have none\)\. Try frame\[frame\['text'\]\.str\.strip\(\) != "
            r"''\], or to fill it"
        ),
        None,
    ),
    "a number": (
        lambda path: read_texts(FRAME.assign(text=range(32))),
        (
            r"column 'text' of the table must hold a text in row 0, and it holds 0 \(32 "
            r"of 32 rows have none\)\. Try frame\['text'\]\.astype\(str\)"
        ),
        lambda path: read_texts(FRAME.assign(text=pd.Series(range(32)).astype(str))),
    ),
    "a pair": (
        lambda path: read_texts(FRAME.assign(text=[("a", "b")] * 32)),
        (
            r"column 'text' of the table must hold a text in row 0, and it holds \('a', "
            r"'b'\) \(32 of 32 rows have none\)\. Try frame\['text'\]\.map\(' '\.join\)"
        ),
        lambda path: read_texts(FRAME.assign(text=pd.Series([("a", "b")] * 32).map(" ".join))),
    ),
    "a missing label": (
        lambda path: read_texts(FRAME.assign(label=None), label="label"),
        (
            r"column 'label' of the table must hold a label in row 0, and it holds None "
            r"\(32 of 32 rows have none\)\. Try frame\[frame\['label'\]\.notna\(\)\], or "
            r"to fill it"
        ),
        None,
    ),
    "a missing owner": (
        lambda path: read_texts(FRAME.assign(owner=None), owner="owner"),
        (
            r"column 'owner' of the table must hold an owner in row 0, and it holds None "
            r"\(32 of 32 rows have none\)\. Try frame\[frame\['owner'\]\.notna\(\)\], or "
            r"to fill it"
        ),
        None,
    ),
    "an empty response": (
        lambda path: read_texts(BLANK, prompt="prompt", response="response"),
        (
            r"column 'response' of the table must hold a response in row 3, and it holds "
            r"'' \(1 of 32 rows have none\)\. Try "
            r"frame\[frame\['response'\]\.str\.strip\(\) != ''\], or to fill it"
        ),
        lambda path: read_texts(
            BLANK[BLANK["response"].str.strip() != ""], prompt="prompt", response="response"
        ),
    ),
    "a conversation": (
        lambda path: read_texts(CHAT, "turns"),
        (
            r"column 'turns' of the table must hold a text in row 0, and it holds "
            r"\[\{'role': 'user', 'content': 'Ask 0'\}, \{'role': 'assistant', 'content': "
            r"'Yes'\}\] \(9 of 9 rows have none\)\. Try "
            r"read_texts\(frame\.assign\(prompt=frame\['turns'\]\.map\(lambda turns: "
            r"turns\[-2\]\['content'\]\),"
        ),
        lambda path: read_texts(
            CHAT.assign(
                prompt=CHAT["turns"].map(lambda turns: turns[-2]["content"]),
                response=CHAT["turns"].map(lambda turns: turns[-1]["content"]),
            ),
            prompt="prompt",
            response="response",
        ),
    ),
    "a list of columns": (
        lambda path: read_texts(FRAME, ["text"]),
        r"text=\['text'\] must be the name of one column\. Try text='text'",
        lambda path: read_texts(FRAME, "text"),
    ),
    "a list of labels": (
        lambda path: read_texts(FRAME, label=["label"]),
        r"label=\['label'\] must be the name of one column\. Try label='label'",
        lambda path: read_texts(FRAME, label="label"),
    ),
    "a real label": (
        lambda path: read_texts(FRAME.assign(label=FRAME.index / 7), label="label"),
        (
            r"column 'label' must hold classes, and it holds numbers to predict\. Try "
            r"label=None"
        ),
        lambda path: read_texts(FRAME),
    ),
    "a list of texts": (
        lambda path: read_texts(["a", "b"]),
        (
            r"the table must be a list of dicts, and it is one of str\. Try \[\{'text': "
            r"text\} for text in texts\]"
        ),
        lambda path: read_texts([{"text": text} for text in ["a", "b"]], test=0.5),
    ),
    "a Series of texts": (
        lambda path: read_texts(FRAME["text"]),
        (
            r"the table must have named columns, and it is a Series\. Try "
            r"series\.to_frame\('text'\)"
        ),
        lambda path: read_texts(FRAME["text"].to_frame("text")),
    ),
    "nothing": (
        lambda path: read_texts(None),
        (
            r"the table must be a path, a DataFrame or a list of dicts, and it is a "
            r"NoneType\. Try pd\.DataFrame\(rows\)"
        ),
        None,
    ),
    "no test set": (
        lambda path: read_texts(FRAME, test=None),
        (
            r"the table must be a path, a DataFrame or a list of dicts, and it is a "
            r"NoneType\. Try pd\.DataFrame\(rows\)"
        ),
        None,
    ),
    "no rows": (
        lambda path: read_texts(FRAME.iloc[:0]),
        r"the table must have a row \(there is no text to read\)\. Try",
        None,
    ),
    "two columns of one name": (
        lambda path: read_texts(FRAME[["text", "text"]]),
        (
            r"the table must have one column 'text', and it has 2\. Try frame\.columns = "
            r"\[\.\.\.\] with a name for each"
        ),
        None,
    ),
    "another kind of file": (
        lambda path: read_texts(path / "a.xlsx"),
        (
            r"a\.xlsx must end in \.csv, \.tsv, \.jsonl or \.json \(the suffix is the "
            r"format of the texts\)\. Try a DataFrame of its rows"
        ),
        None,
    ),
    "another separator": (
        lambda path: (FRAME.to_csv(path / "a.csv", sep=";"), read_texts(path / "a.csv")),
        (
            r"a\.csv must have cells divided by ',', and its one column "
            r"';text;label;owner;prompt;response' has ';' in it\. Try pd\.read_csv\(path, "
            r"sep=';'\), and pass the frame"
        ),
        lambda path: read_texts(pd.read_csv(path / "a.csv", sep=";")),
    ),
    "another encoding": (
        lambda path: (
            (path / "a.csv").write_bytes("text\nGrüße\nb\n".encode("latin-1")),
            read_texts(path / "a.csv"),
        ),
        (
            r"a\.csv must be in UTF-8 \(byte 7 is 0xfc\)\. Try pd\.read_csv\(path, "
            r"encoding='latin-1'\), and pass the frame"
        ),
        lambda path: read_texts(pd.read_csv(path / "a.csv", encoding="latin-1"), test=0.5),
    ),
    "UTF-16": (
        lambda path: (
            FRAME.to_csv(path / "a.csv", encoding="utf-16", index=False),
            read_texts(path / "a.csv"),
        ),
        (
            r"a\.csv must be in UTF-8 \(byte 0 is 0xff\)\. Try pd\.read_csv\(path, "
            r"encoding='utf-16'\), and pass the frame"
        ),
        lambda path: read_texts(pd.read_csv(path / "a.csv", encoding="utf-16")),
    ),
    "UTF-16 without a mark": (
        lambda path: (
            FRAME.to_csv(path / "a.tsv", encoding="utf-16-le", sep="\t"),
            read_texts(path / "a.tsv"),
        ),
        (
            r"a\.tsv must be in UTF-8 \(it has zero bytes\)\. Try pd\.read_csv\(path, "
            r"encoding='utf-16-le', sep='\\t'\), and pass the frame"
        ),
        lambda path: read_texts(pd.read_csv(path / "a.tsv", encoding="utf-16-le", sep="\t")),
    ),
    "UTF-16 in lines": (
        lambda path: (
            (path / "a.jsonl").write_text('{"text": "a"}\n' * 9, "utf-16"),
            read_texts(path / "a.jsonl"),
        ),
        (
            r"a\.jsonl must be in UTF-8 \(byte 0 is 0xff\)\. Try pd\.read_json\(path, "
            r"encoding='utf-16', lines=True\), and pass the frame"
        ),
        lambda path: read_texts(pd.read_json(path / "a.jsonl", encoding="utf-16", lines=True)),
    ),
    "a folder": (
        lambda path: ((path / "dir.csv").mkdir(), read_texts(path / "dir.csv")),
        r"dir\.csv must be a file of texts, and it is a folder\. Try one of its files",
        None,
    ),
    "three texts": (
        lambda path: read_texts(ROWS[:3]),
        (
            r"test=0\.2 must be a share between 0 and 1 that leaves training and test "
            r"examples \(there are 3\)\. Try test=0\.5"
        ),
        lambda path: read_texts(ROWS[:3], test=0.5),
    ),
    "one text": (
        lambda path: read_texts(ROWS[:1]),
        (
            r"test=0\.2 must be other texts \(there is one text, which trains\)\. Try "
            r"test=other_frame, with the same columns"
        ),
        lambda path: read_texts(ROWS[:1], test=FRAME),
    ),
    "a torn line": (
        lambda path: (
            (path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n'),
            read_texts(path / "a.jsonl"),
        ),
        (
            r"a\.jsonl must be JSON in line 2 \(Expecting value\)\. Try one object per "
            r"line in a \.jsonl file, or one list of them in \.json"
        ),
        None,
    ),
    "no objects": (
        lambda path: ((path / "a.json").write_text('{"text": ["a"]}'), read_texts(path / "a.json")),
        (
            r"a\.json must hold objects with named fields \(it holds other values\)\. Try "
            r'rows such as \{"text": "\.\.\."\}'
        ),
        None,
    ),
    "an empty file": (
        lambda path: ((path / "a.csv").write_text(""), read_texts(path / "a.csv")),
        (
            r"a\.csv must be a table \(No columns to parse from file\)\. Try "
            r"pd\.read_csv\(path, sep=\.\.\.\)"
        ),
        None,
    ),
    "ragged rows": (
        lambda path: (
            (path / "a.csv").write_text("text\na,b,c\nd,e,f,g\n"),
            read_texts(path / "a.csv"),
        ),
        (
            r"a\.csv must be a table \(Error tokenizing data\. C error: Expected 3 fields "
            r"in line 3, saw 4\)\. Try pd\.read_csv\(path, sep=\.\.\.\)"
        ),
        None,
    ),
    "a share of everything": (
        lambda path: read_texts(FRAME, test=1.0),
        (
            r"test=1\.0 must be a share between 0 and 1 that leaves training and test "
            r"examples \(there are 32\)\. Try test=0\.2"
        ),
        None,
    ),
    "one text an owner": (
        lambda path: read_texts(FRAME.assign(owner=FRAME["text"]), owner="owner"),
        (
            r"test=0\.2 must be other texts \(every owner has one text, which trains\)\. "
            r"Try owner=None, or test=other_frame with the same columns"
        ),
        lambda path: read_texts(FRAME.assign(owner=FRAME["text"]), owner="owner", test=FRAME),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_table_of_texts_that_does_not_work_says_what_does(tmp_path, name):
    act, message, remedy = BROKEN[name]
    with pytest.raises(ValueError, match=message) as caught:
        act(tmp_path)
    assert "\n" not in str(caught.value)
    if remedy is not None:
        remedy(tmp_path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"mails\.csv must be a file \(it is not there\)\. Try an absolute path: a "
            r"relative one begins at"
        ),
    ):
        read_texts(tmp_path / "mails.csv")


SOME = (["a b", "c d"], [0, 0])


@pytest.mark.parametrize(
    "texts",
    [
        ["a", "b", "c"],
        ("a", "b", "c"),
        np.array(["a", "b", "c"]),
        pd.Series(["a", "b", "c"], index=[7, 8, 9]),
        iter("abc"),
    ],
    ids=["list", "tuple", "array", "Series", "iterator"],
)
def test_texts_of_any_kind_of_list(texts):
    made = Texts(
        "mine", texts, pd.Series(["no", "yes", "no"]), ["ann", "bob", "ann"], (["d"], ["yes"])
    )
    assert made.texts == ["a", "b", "c"]
    assert all(type(text) is str for text in made.texts)
    assert (made.labels.tolist(), made.test[1].tolist(), made.classes) == (
        [0, 1, 0],
        [1],
        ("no", "yes"),
    )
    assert made.labels.dtype == np.int64
    assert made.owner.tolist() == ["ann", "bob", "ann"]


def test_texts_without_labels_and_owners():
    texts = Texts("mine", ["a", "b"], None, None, (["c"], None))
    assert (texts.classes, texts.labels.tolist(), set(texts.owner)) == ((), [0, 0], {"everyone"})


@pytest.mark.parametrize(
    ("texts", "labels", "owner", "test", "message"),
    [
        ("a b", [0], ["x"], SOME, r"texts must be a list of texts, and it is a str\. Try \[text\]"),
        (3, [0], ["x"], SOME, r"texts must be a list of texts, and it is a int\. Try \[text\]"),
        (
            {"a": 1},
            [0],
            ["x"],
            SOME,
            r"texts must be a list of texts, and it is a dict\. Try \[text\]",
        ),
        (
            [("a", "b")],
            [0],
            ["x"],
            SOME,
            (
                r"texts\[0\] must be one text, and it is a tuple of 2\. Try ' "
                r"'\.join\(pair\), or read_texts\(frame, prompt=\.\.\., response=\.\.\.\)"
            ),
        ),
        (
            ["a", np.nan],
            [0, 0],
            ["x"] * 2,
            SOME,
            (
                r"texts\[1\]=nan must be a text \(it is missing\)\. Try "
                r"frame\.dropna\(subset=\['text'\]\) before"
            ),
        ),
        (
            ["a", None],
            [0, 0],
            ["x"] * 2,
            SOME,
            (
                r"texts\[1\]=None must be a text \(it is missing\)\. Try "
                r"frame\.dropna\(subset=\['text'\]\) before"
            ),
        ),
        (
            pd.Series(["a", pd.NA]),
            [0, 0],
            ["x"] * 2,
            SOME,
            (
                r"texts\[1\]=nan must be a text \(it is missing\)\. Try "
                r"frame\.dropna\(subset=\['text'\]\) before"
            ),
        ),
        (
            ["a", 3],
            [0, 0],
            ["x"] * 2,
            SOME,
            (
                r"texts\[1\] must be a text, and it is of type int\. Try \[str\(text\) for "
                r"text in texts\]"
            ),
        ),
        (
            ["a"],
            [0, 1],
            ["x"],
            SOME,
            r"1 texts and 2 labels must be equally many\. Try one label per text",
        ),
        (
            ["a"],
            [0],
            ["x"],
            (["b", ("c", "d")], [0, 0]),
            (
                r"test texts\[1\] must be one text, and it is a tuple of 2\. Try ' "
                r"'\.join\(pair\), or read_texts\(frame, prompt=\.\.\., response=\.\.\.\)"
            ),
        ),
        (["a"], [0], ["x"], ["b"], "test is a list of 1 and must be a pair"),
        (
            ["a", "b"],
            ["no", None],
            ["x"] * 2,
            SOME,
            (
                r"labels\[1\]=None must be a label \(1 of 2 examples have none\)\. Try "
                r"leaving these rows out"
            ),
        ),
        (
            ["a", "b"],
            [0, 1],
            ["x", None],
            (["c"], [1]),
            (
                r"owner\[1\]=None must be a name \(1 of 2 examples have none\)\. Try leaving "
                r"these rows out, or a name for them such as 'unknown'"
            ),
        ),
        (
            ["a", "b"],
            [0, 1],
            ["x"],
            (["c"], [1]),
            (
                r"owner must hold one name per example \(1 names for 2 examples\)\. Try one "
                r"name for each row of x"
            ),
        ),
        ([], [], [], SOME, r"mine must have a text to train on\. Try a list of texts"),
    ],
)
def test_what_are_no_texts_is_told_in_a_line(texts, labels, owner, test, message):
    with pytest.raises(ValueError, match=message) as caught:
        Texts("mine", texts, labels, owner, test)
    assert "\n" not in str(caught.value)


def test_clients_of_texts_know_their_test_examples():
    data = token_prediction(
        tiny("gpt2", FRAME["text"], width=16, depth=1, vocabulary=300),
        read_texts(FRAME, owner="owner"),
    )
    assert data.num_clients == 3
    assert [len(part) for part in data.test_parts[:1]] == [4]
    assert sorted(np.concatenate(data.test_parts)) == list(range(len(data.test[1])))


@pytest.mark.parametrize(
    "texts", [[("a", "b")], [["a", "b"]], ["a", np.nan], ["a", None], [1, 2], "abc"]
)
def test_models_read_texts_only(texts):
    """Pairs are refused, although the tokenizer itself would take them."""
    model = tiny("bert", FRAME["text"], width=16, depth=1, vocabulary=300)
    for act in (
        lambda: tokenize(model, texts),
        lambda: tiny("gpt2", texts),
        lambda: pretrain(model, texts, steps=1),
    ):
        with pytest.raises(ValueError, match=r"^texts(\[\d\])?(=\S+)? must be .*\. Try ") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_series_of_texts_is_cut_by_its_order():
    model = tiny("gpt2", FRAME["text"], width=16, depth=1, vocabulary=300)
    long = pd.Series([text * 30 for text in FRAME["text"]], index=range(40, 8, -1))
    assert torch.equal(tokenize(model, long, 20), tokenize(model, long.tolist(), 20))


@pytest.mark.parametrize("rows", ["Well 0, I liked it,pos\nA, b,neg\n", "ok,pos\nA, b,neg\n"])
def test_commas_without_quotes_lose_no_text(tmp_path, rows):
    path = tmp_path / "texts.csv"
    path.write_text("text,label\n" + rows)
    with pytest.raises(
        ValueError,
        match=r"Try double quotes around texts|must be a table \(.*line 3.*\)\. Try pd\.read_csv",
    ):
        read_texts(path, label="label")


REVIEWS = [f"review {k}" for k in range(20)]


@pytest.mark.parametrize(
    ("quoted", "line"),
    [
        ({0: '"review 0', 5: '"review 5'}, 2),
        ({4: '"review 4'}, 6),
        ({7: '"Great" movie'}, 9),
        ({2: '"a', 3: 'b"'}, 4),
    ],
    ids=["two that open", "one that opens", "a word", "a pair"],
)
@pytest.mark.parametrize("separator", ["\t", ","])
def test_quotes_that_are_letters_join_no_rows(tmp_path, separator, quoted, line):
    path = tmp_path / ("a.tsv" if separator == "\t" else "a.csv")
    written = [quoted.get(k, text) for k, text in enumerate(REVIEWS)]
    path.write_text(
        "".join(
            f"{text}{separator}{label}\n"
            for text, label in [("text", "label"), *zip(written, "01" * 10, strict=True)]
        )
    )
    with pytest.raises(
        ValueError,
        match=(
            rf"cell in line {line} that begins with a double quote .* "
            r"Try pd\.read_csv\(path, .*quoting=3"
        ),
    ):
        read_texts(path, label="label")
    texts = read_texts(pd.read_csv(path, sep=separator, quoting=3), label="label")
    assert sorted([*texts.texts, *texts.test[0]]) == sorted(written)


@pytest.mark.parametrize("columns", [["text"], ["text", "label"]])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_quotes_around_texts_and_in_them(tmp_path, suffix, columns):
    frame = pd.DataFrame(
        {"text": ['Well, "hi"\nand\tleft, fast', "a, b\nc, d", '"', 'so "good" it', "x\n\ny", "q"]}
    )
    path = in_a_file(tmp_path / f"a.{suffix}", frame.assign(label=list("ababab"))[columns])
    path.write_text(
        path.read_text()
        + ('"all" ' if len(columns) == 1 else '"all"{}a'.format("," if suffix == "csv" else "\t"))
    )
    texts = read_texts(path, label="label" if "label" in columns else None)
    assert sorted(text.strip() for text in [*texts.texts, *texts.test[0]]) == sorted(
        [*frame["text"], "all"]
    )


def test_labels_and_owners_in_writing(tmp_path):
    def classes(*labels, **options):
        path = tmp_path / "a.csv"
        path.write_text(
            "text,label,owner\n"
            + "".join(f"Mail {k},{labels[k % len(labels)]},{' ' * (k % 2)}ann\n" for k in range(30))
        )
        texts = read_texts(path, label="label", owner="owner", **options)
        assert set(texts.owner) == {"ann"}
        return texts.classes

    assert classes("pos", " pos", "neg ") == ("neg", "pos")
    assert classes("00", "01", "10") == ("00", "01", "10")
    assert classes("0", " 1") == ("0", "1")


def test_categories_of_labels_keep_their_order():
    label = pd.Categorical(["lo", "hi"] * 16, ["none", "lo", "mid", "hi"], ordered=True)
    assert read_texts(FRAME.assign(label=label), label="label").classes == ("lo", "hi")


def test_owners_of_test_texts_only_are_told(caplog):
    texts = read_texts(
        FRAME[FRAME["owner"] != "bob"], owner="owner", test=FRAME[FRAME["owner"] != "cy"]
    )
    caplog.clear()
    data = token_prediction(tiny("gpt2", FRAME["text"], width=16, depth=1, vocabulary=300), texts)
    assert [len(part) for part in data.test_parts] == [20, 0]
    assert "('bob') are no clients. " in caplog.text
