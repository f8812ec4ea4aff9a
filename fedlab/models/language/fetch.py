"""The command ``fedlab models``: list fetched models, or fetch models from the hub."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedlab.models.language.load import MODEL_FILES, first_line


def main(names: Sequence[str]) -> int:
    """Fetch models from the Hugging Face hub, and print the size of each one first.

    Without names, list the models that are on this computer.

    Args:
        names: Names of models on the hub, such as ``["prajjwal1/bert-tiny"]``.

    Returns:
        The exit status: 0 for success, 1 if a model could not be fetched, 130 if interrupted.
    """
    from huggingface_hub import snapshot_download

    if not names:
        print(_list_models())
    for name in names:
        try:
            sizes = _file_sizes(name)
            print(f"{name}: {sum(sizes) / 1e6:,.0f} MB in {len(sizes)} files")
            print(f"{name}: {snapshot_download(name, allow_patterns=MODEL_FILES)}")
        except Exception as error:  # the hub's client has many kinds of its own
            print(f"{name}: not fetched: {first_line(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(
                "\nstopped; finished parts are on disk, and the same command continues",
                file=sys.stderr,
            )
            return 130
    return 0


def _file_sizes(name: str) -> list[int]:
    """Return the bytes of each file that would be fetched."""
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    files = HfApi().model_info(name, files_metadata=True).siblings
    return [
        file.size or 0
        for file in files
        if any(fnmatch(file.rfilename, pattern) for pattern in MODEL_FILES)
    ]


def _list_models() -> str:
    """Return a line per model in the hub's cache, and a line on fetching another."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import CacheNotFound

    try:
        models = [repo for repo in scan_cache_dir().repos if repo.repo_type == "model"]
    except CacheNotFound:
        models = []
    lines = [
        f"{model.repo_id}: {model.size_on_disk / 1e6:,.0f} MB, in {model.repo_path}"
        for model in models
    ]
    lines = sorted(lines) or [f"no model was fetched yet to {HF_HUB_CACHE}"]
    fetching = "`python -m fedlab models NAME` fetches a model of the hub"
    return "\n".join([*lines, f"{fetching}; 'minilm' needs no network"])
