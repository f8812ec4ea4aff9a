"""`make docs` writes a page per room, with its guide and its functions."""

import subprocess
import sys

import pytest
from test_floors import ROOMS, ROOT


@pytest.mark.slow
def test_every_room_has_a_page(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "pdoc", "--docformat", "google"]
    subprocess.run([*command, "--output-directory", tmp_path, "fedlab"], check=True)
    for room in ROOMS:
        assert (tmp_path / "fedlab" / f"{room}.html").exists(), room
    page = (tmp_path / "fedlab" / "server.html").read_text(encoding="utf-8")
    assert "scaffold" in page
    assert "<h6" in page, "Args and Returns are headings"
    template = ROOT / "lab" / "report" / "templates" / "index.html.j2"
    assert 'href="api/index.html"' in template.read_text(), "the index of reports links the pages"
