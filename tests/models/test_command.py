"""``python -m fedlab models`` without a name lists the models, and says how to fetch more."""

import os
import subprocess
import sys

import pytest

REMEDY = "`python -m fedlab models NAME` fetches a model of the hub; 'minilm' needs no network"


def listed(cache):
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "fedlab", "models"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_without_a_name_the_models_on_this_computer_are_listed(tmp_path):
    assert listed(tmp_path / "none") == [f"no model was fetched yet to {tmp_path / 'none'}", REMEDY]
    for kind, name in (
        ("models", "some--model"),
        ("models", "another--model"),
        ("datasets", "some--data"),
    ):
        repository = tmp_path / f"{kind}--{name}"
        for folder, file, content in (
            ("refs", "main", b"0" * 40),
            ("snapshots/" + "0" * 40, "w.safetensors", b"0" * 2_000_000),
        ):
            (repository / folder).mkdir(parents=True)
            (repository / folder / file).write_bytes(content)
    assert listed(tmp_path) == [
        f"another/model: 2 MB, in {tmp_path / 'models--another--model'}",
        f"some/model: 2 MB, in {tmp_path / 'models--some--model'}",
        REMEDY,
    ]
