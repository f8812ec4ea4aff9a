"""Methods side by side: equal budgets, each with its own tuned rate, paired seeds, and the interval of the difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedlab.client import Train, batched
from fedlab.core import Algorithm, Experiment, Result
from fedlab.core.validate import check_seeds
from fedlab.engine import finish, variants
from fedlab.engine.storage.files import folder_at
from fedlab.study.tuning import _apart_from, _tuned


def compare(
    base: Experiment,
    backend: Train = batched,
    seeds: int | Sequence[int] = 1,
    *,
    tune: Mapping[str, Sequence] | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    **fields: Mapping[Any, Any],
) -> Result:
    """Run variants of one experiment side by side, in lockstep and with the same seeds.

    ``compare(base, algorithm={"FedAvg": fedavg(), "half steps": fedavg(server_lr=0.5)})`` puts each value in that field and
    adds a column ``algorithm`` with the labels to both tables.  Several fields give every combination.

    ``tune={"lr": (0.03, 0.1, 0.3)}`` first finds the best values for each variant by itself, out of every combination: lr,
    momentum, weight_decay or optimizer of ``Local``, and arguments of an algorithm given as a function (``fedadam`` instead
    of ``fedadam()``), such as ``server_lr``.  They become columns, with "" for a variant that has no such argument, and the
    column ``note`` says where a value lies at the end of its grid.  Chosen is the highest mean accuracy, of those alike the
    lowest loss (without an accuracy, the lowest loss), after the last round, over 3 seeds from 1000 on that are none of
    ``seeds``, on a fifth of the clients' examples (see ``hold_out_examples``): the test set takes no part.  A candidate that
    diverges is out.  All of them come back as ``trials``.

    ``checkpoint`` and ``device`` are those of ``run``; the candidates are kept beside it, in ``<checkpoint>.tuning``.
    """
    seeds = check_seeds(seeds)
    recipes, fields = _recipes(fields)
    pairs, trials = variants(base, **fields), None
    if tune is not None:
        folder = None if checkpoint is None else Path(f"{folder_at(checkpoint=checkpoint)}.tuning")
        train = partial(finish, backend=backend, seeds=_apart_from(seeds), device=device)
        pairs, trials = _tuned(pairs, recipes, tune, train, folder)
    result = finish(pairs, backend, seeds, checkpoint=checkpoint, device=device)
    return replace(result, trials=trials)


# -- tuning
def _recipes(
    fields: Mapping[str, Any],
) -> tuple[dict[Any, Callable[..., Algorithm]], dict[str, Any]]:
    """The algorithms given as functions, by label; and the fields with what these functions give by default."""
    given = fields.get("algorithm")
    if not isinstance(given, Mapping):
        return {}, dict(fields)
    recipes = {label: value for label, value in given.items() if callable(value)}
    return recipes, {
        **fields,
        "algorithm": {**given, **{label: recipe() for label, recipe in recipes.items()}},
    }
