"""Damaged files: whatever was done to them, the error is one line of this package."""

import hashlib
import json
import shutil
import struct

import pandas as pd
import pytest
import torch
from engine.test_hostile_folders import STATE, WORDS, study
from safetensors import safe_open
from safetensors.torch import save_file

from fedlab.core import generator
from fedlab.engine import run, storage
from fedlab.engine.storage.results import description_checksum
from fedlab.engine.storage.tensors import tensors_checksum
from fedlab.lab.course import Lesson
from fedlab.lab.report.jobs import Report
from fedlab.server import scaffold
from fedlab.upload import error_feedback, top_k

STUDY = study(algorithm=scaffold(), upload=error_feedback(top_k(0.5)), rounds=2)
ODD = [
    5,
    -1,
    1e400,
    None,
    True,
    "",
    "x" * 2000,
    [],
    {},
    [[]],
    {"a": 1},
    "../../etc/passwd",
    2**70,
    "float64",
    ["cpu"],
]
DEEP = b"[" * 100_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished checkpoint and a saved result."""
    root = tmp_path_factory.mktemp("kept")
    result = run(STUDY, checkpoint=root / "checkpoint")
    storage.save_result(result, root / "result", STUDY)
    return root, result


def is_read_or_refused(act, result):
    try:
        again = act()
    except (ValueError, OSError) as error:
        message = f"{error}"
    else:
        message = None
    if message is None:
        assert all(torch.equal(u, v) for u, v in zip(again.w, result.w, strict=True))
        pd.testing.assert_frame_equal(again.rounds, result.rounds, check_exact=True)
    else:
        assert "\n" not in message
        assert len(message) < 700
        assert any(
            word in message
            for word in ("Try another folder", "Try to move", "Try to save", "readable", "delete")
        ), message


def replaced(draw, value):
    """The JSON with an odd value at a random place, or without that."""
    if isinstance(value, dict | list) and value and draw.random() < 0.9:
        place = (
            draw.choice(list(value)) if isinstance(value, dict) else int(draw.integers(len(value)))
        )
        if draw.random() < 0.1:
            del value[place]
        else:
            value[place] = replaced(draw, value[place])
        return value
    return ODD[draw.integers(len(ODD))]


def damage_bytes(draw, content):
    content, end = (
        bytearray(content),
        len(content) if draw.random() < 0.3 else min(len(content), 400),
    )
    match draw.integers(5):
        case 0:
            del content[draw.integers(end) :]
        case 1:
            content[draw.integers(end) : draw.integers(end)] = draw.bytes(draw.integers(20))
        case 2:
            content[:8] = struct.pack("<Q", int(draw.integers(2**40)) >> int(draw.integers(40)))
        case _:
            for _ in range(draw.integers(1, 4)):
                content[draw.integers(end)] ^= 1 << draw.integers(8)
    return bytes(content)


def damage_words(draw, path):
    if draw.random() < 0.2:
        path.write_bytes(damage_bytes(draw, path.read_bytes()))
    else:
        path.write_text(json.dumps(replaced(draw, json.loads(path.read_text()))))


def damage_header(draw, path):
    """Another header of the same tensors, as JSON, which safetensors may read."""
    content = path.read_bytes()
    (n,) = struct.unpack_from("<Q", content)
    header = replaced(draw, json.loads(content[8 : 8 + n]))
    text = json.dumps(header).encode() if draw.random() < 0.9 else DEEP
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + n :])


def damage_told(draw, path):
    """What a state says of itself, with checksums that fit."""
    with safe_open(path, "pt") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    text = json.dumps(replaced(draw, json.loads(tensors["json"].numpy().tobytes()))).encode()
    tensors["json"] = torch.frombuffer(
        bytearray(text if draw.random() < 0.95 else DEEP), dtype=torch.uint8
    )
    save_file(tensors, path, header | {"checksum": tensors_checksum(tensors, header["experiment"])})


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_a_damaged_checkpoint_is_refused_in_a_line(folders, tmp_path, number):
    """25 each."""
    (root, result), draw = folders, generator(number, "damage")
    for k in range(25):
        folder = shutil.copytree(root / "checkpoint", tmp_path / str(k))
        match draw.integers(4):
            case 0:
                damage_words(draw, folder / WORDS)
            case 1:
                (folder / STATE).write_bytes(damage_bytes(draw, (folder / STATE).read_bytes()))
            case 2:
                damage_header(draw, folder / STATE)
            case 3:
                damage_told(draw, folder / STATE)
                is_read_as_it_is_or_refused(lambda folder=folder: run(STUDY, checkpoint=folder))
                continue
        is_read_or_refused(lambda folder=folder: run(STUDY, checkpoint=folder), result)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_a_damaged_result_is_refused_in_a_line(folders, tmp_path, number):
    """25 each; mostly the checksums fit."""
    (root, result), draw = folders, generator(number, "damaged result")
    for k in range(25):
        folder = shutil.copytree(root / "result", tmp_path / str(k))
        if draw.random() < 0.5:
            damage_words(draw, folder / WORDS)
        else:
            name = draw.choice(["w.safetensors", "rounds.csv", "clients.csv"])
            content = damage_bytes(draw, (folder / name).read_bytes())
            (folder / name).write_bytes(content)
            if draw.random() < 0.8:
                sealed(folder, {str(name): content})
                is_read_as_it_is_or_refused(lambda folder=folder: storage.load_result(folder))
                continue
        is_read_or_refused(lambda folder=folder: storage.load_result(folder), result)


def sealed(folder, files, **columns):
    """Words whose checksums are those of the ``files``, as who changes both would write them."""
    words = json.loads((folder / WORDS).read_text())
    words["checksums"] |= {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    words["columns"] |= columns
    (folder / WORDS).write_text(json.dumps(words | {"checksum": description_checksum(words)}))


def is_read_as_it_is_or_refused(act):
    """Of files whose checksums were changed with them: nobody can know."""
    try:
        act()
    except ValueError as error:
        message = str(error)
        assert "\n" not in message
        assert "is damaged" in message or "rounds=2" in message, message


@pytest.mark.parametrize("target", ["/dev/zero", "/", "nowhere"])
def test_links_to_what_is_no_file(folders, tmp_path, target):
    root = folders[0]
    for folder, name, act in (
        ("checkpoint", STATE, lambda place: run(STUDY, checkpoint=place)),
        ("checkpoint", WORDS, lambda place: run(STUDY, checkpoint=place)),
        ("result", "w.safetensors", storage.load_result),
        ("result", WORDS, storage.load_result),
    ):
        place = shutil.copytree(root / folder, tmp_path / f"{folder} {name}")
        (place / name).unlink()
        (place / name).symlink_to(target)
        with pytest.raises((ValueError, OSError)) as caught:
            act(place)
        assert "\n" not in str(caught.value)
        assert str(place) in str(caught.value)


@pytest.mark.parametrize(
    "kinds",
    [
        5,
        None,
        {"seed": 5},
        {"nobody": "int64"},
        {"seed": "S9999999999"},
        {"seed": "foo"},
        {"loss": "bool"},
    ],
)
def test_malformed_columns(folders, tmp_path, kinds):
    place = shutil.copytree(folders[0] / "result", tmp_path / "result")
    sealed(place, {}, rounds=kinds)
    is_read_as_it_is_or_refused(lambda: storage.load_result(place))
    words = json.loads((place / WORDS).read_text())
    (place / WORDS).write_text(json.dumps(words | {"columns": {}}))
    with pytest.raises(
        ValueError,
        match=r"experiment\.json is damaged \(its checksum is another\)\. Try to save the result "
        r"again",
    ):
        storage.load_result(place)


def test_a_result_of_the_older_format_is_read(folders, tmp_path):
    place = shutil.copytree(folders[0] / "result", tmp_path / "result")
    words = json.loads((place / WORDS).read_text())
    del words["checksum"]
    (place / WORDS).write_text(json.dumps(words | {"format": "fedlab result 1"}))
    is_read_or_refused(lambda: storage.load_result(place), folders[1])


def test_a_result_reads_nothing_outside_its_folder(folders, tmp_path):
    place = shutil.copytree(folders[0] / "result", tmp_path / "result")
    content = (place / "rounds.csv").read_bytes()
    (tmp_path / "rounds.csv").write_bytes(content)
    sealed(place, {"../rounds.csv": content}, **{"../rounds": {}})
    with pytest.raises(
        ValueError, match=r"experiment\.json is damaged \(a result has no table '../rounds'\)"
    ):
        storage.load_result(place)


@pytest.mark.parametrize(
    "content",
    ["5", "[]", '{"status": 1}', '{"files": 5, "status": "pass"}', DEEP.decode(), "", "{"],
)
def test_a_report_whose_words_are_damaged_is_as_one_that_never_ran(tmp_path, content):
    report = Report(Lesson(*[None] * len(Lesson._fields))._replace(name="00_first"), {}, tmp_path)
    report.folder.mkdir(parents=True)
    (report.folder / "run.json").write_text(content)
    assert report.last_run == {}
