"""The texts ``docs``: paragraphs out of the docstrings of the installed packages."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path

import numpy as np

from fedlab.data.text import Texts
from fedlab.data.text_subsets import with_test_set

NUM_WORDS = range(12, 81)  # of a paragraph that is taken

# Folders and files of each topic, below site-packages and below Python's own library.
PACKAGES = {
    "statistics": "scipy/stats",
    "signals": "scipy/signal scipy/fft scipy/ndimage",
    "optimisation": "scipy/optimize scipy/integrate",
    "sparse": "scipy/sparse",
    "geometry": "scipy/spatial matplotlib/path.py matplotlib/transforms.py matplotlib/tri",
    "clustering and trees": "sklearn/cluster sklearn/tree sklearn/ensemble sklearn/neighbors",
    "linear models": "sklearn/linear_model sklearn/svm",
    "tables": "pandas/core/frame.py pandas/core/generic.py pandas/core/series.py "
    "pandas/core/groupby pandas/core/reshape",
    "plots": "matplotlib/axes matplotlib/axis.py matplotlib/colors.py matplotlib/figure.py "
    "matplotlib/legend.py matplotlib/patches.py matplotlib/pyplot.py matplotlib/text.py "
    "matplotlib/ticker.py",
    "neural networks": "torch/nn",
    "notebooks": "ipykernel ipywidgets jupyterlab nbclient nbconvert nbformat papermill voila",
    "language models": "transformers/generation transformers/models/bart transformers/models/bert "
    "transformers/models/gpt2 transformers/models/llama transformers/models/roberta "
    "transformers/models/t5 transformers/configuration_utils.py transformers/modeling_utils.py "
    "transformers/tokenization_utils_base.py transformers/training_args.py",
}
LIBRARY = {
    "web and mail": "email ftplib.py html http imaplib.py mailbox.py poplib.py smtplib.py "
    "socket.py socketserver.py ssl.py urllib xmlrpc",
    "processes": "asyncio concurrent multiprocessing queue.py sched.py selectors.py signal.py "
    "subprocess.py threading.py",
}


@cache
def docs() -> Texts:
    """Return the distinct paragraphs of 14 topics, owned by the subpackages that contain them."""
    site, library = Path(find_spec("torch").origin).parents[1], Path(sysconfig.get_path("stdlib"))
    topics = [(topic, site, places) for topic, places in PACKAGES.items()]
    topics += [(topic, library, places) for topic, places in LIBRARY.items()]
    topics.sort()
    seen: set[str] = set()
    rows = [
        (text, label, owner)
        for label, (_, root, places) in enumerate(topics)
        for text, owner in _paragraphs(root, places.split())
        if not (text.lower() in seen or seen.add(text.lower()))
    ]
    texts, labels, owner = zip(*rows, strict=True)
    classes = tuple(topic for topic, *_ in topics)
    return with_test_set("docs", texts, np.array(labels), np.array(owner), classes)


def _paragraphs(root: Path, places: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each paragraph of the docstrings, and the first two names of its module."""
    for place in places:
        files = sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place]
        for path in files:
            parts = path.relative_to(root).with_suffix("").parts
            if "tests" in parts:
                continue
            for docstring in _docstrings(path.read_text("utf-8")):
                for paragraph in prose(docstring):
                    yield paragraph, ".".join(parts[:2])


def _docstrings(source: str) -> Iterator[str]:
    """Yield strings in three quotes that begin a line: parsing would take 10 times longer."""
    pieces = source.split('"""')
    for before, text in zip(pieces[::2], pieces[1::2], strict=False):
        if before.rpartition("\n")[2].strip() in ("", "r", "u"):
            yield cleandoc(text)


def prose(docstring: str) -> list[str]:
    r"""Return the paragraphs of a docstring that are sentences, without markup.

    Code, lists of parameters and tables are left out.

    Example:
        >>> text = "Draw a sample of the clients without replacement, with equal chances for all."
        >>> prose(f"{text}\n\n>>> sample(10)") == [text]
        True
    """
    paragraphs = []
    for block in re.split(r"\n\s*\n", docstring):
        lines = [
            line for line in block.splitlines() if not re.match(r"\s*[\w*, ]+ : ", line)
        ]  # `name : type`
        text = " ".join(" ".join(lines).split())
        if re.search(r">>>|\.\. |::|[-=~^]{4}|[|{}]|\\\w", text):
            continue
        text = re.sub(r":[\w:]+:`~?([^`<]*?)(?: <[^`>]*>)?`", r"\1", text)  # :class:`Name`
        text = re.sub(r"`+|\*\*|_\b(?= )", "", text).strip()
        words = text.split()
        plain = sum(word.strip(".,;:()'\"*").isalpha() for word in words)
        if len(words) in NUM_WORDS and plain > 0.7 * len(words) and text[0].isalpha():
            paragraphs.append(text)
    return paragraphs
