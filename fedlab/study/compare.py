"""Methods side by side: equal budgets, tuned rates, paired seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedlab.client import Train, batched
from fedlab.core import Experiment, Result
from fedlab.core.validate import check_seeds
from fedlab.engine import run_all, variants
from fedlab.engine.storage.folders import folder_path
from fedlab.study.tuning import Factory, tune_variants, tuning_seeds


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

    With ``tune``, each variant first finds its own best values out of every combination. The best
    has the highest mean accuracy after the last round, and the lowest loss among equals (without
    an accuracy: the lowest loss). The mean is over 3 seeds from 1000 on that are none of
    ``seeds``, on a fifth of the clients' examples (see ``hold_out_examples``): the test set takes
    no part. A candidate that diverges is out.

    Args:
        base: The experiment that all variants share.
        backend: Engine that trains.
        seeds: Number of seeds, or a list of them.
        tune: Values to try, by name, for example ``{"lr": (0.03, 0.1, 0.3)}``. Names are lr,
            momentum, weight_decay and optimizer of ``Local``, and arguments of an algorithm given
            as a function (``fedadam`` instead of ``fedadam()``), such as ``server_lr``.
        checkpoint: Folder from which the comparison goes on, as in ``run``. The candidates are in
            ``<checkpoint>.tuning`` beside it.
        device: PyTorch's name of a device, or "auto".
        **fields: A field of the experiment, and its values by label. Several fields give every
            combination.

    Returns:
        The result, whose tables have a column per field, with the labels. Tuned values become
        columns, with "" for a variant that has no such argument; the column ``note`` says if a
        value lies at the end of its grid. ``trials`` has all candidates.

    Raises:
        ValueError: For settings that do not go together, before anything is trained.
        Diverged: If numbers are no longer finite; its ``result`` holds the rounds so far.

    Example:
        >>> import fedlab as fl
        >>> digits = fl.load("digits", clients=6)
        >>> study = fl.experiment(digits, fl.mlp(digits), fl.Local(0.1), rounds=1)
        >>> methods = {"FedAvg": fl.fedavg(), "half steps": fl.fedavg(server_lr=0.5)}
        >>> compare(study, algorithm=methods, seeds=2).final()["algorithm"].tolist()
        ['FedAvg', 'FedAvg', 'half steps', 'half steps']
    """
    seeds = check_seeds(seeds)
    factories, fields = _split_factories(fields)
    pairs, trials = variants(base, **fields), None
    if tune is not None:
        folder = (
            None if checkpoint is None else Path(f"{folder_path(checkpoint=checkpoint)}.tuning")
        )
        train = partial(run_all, backend=backend, seeds=tuning_seeds(seeds), device=device)
        pairs, trials = tune_variants(pairs, factories, tune, train, folder)
    result = run_all(pairs, backend, seeds, checkpoint=checkpoint, device=device)
    return replace(result, trials=trials)


def _split_factories(
    fields: Mapping[str, Any],
) -> tuple[dict[Any, Factory], dict[str, Any]]:
    """Return the algorithms given as functions, and the fields with their default algorithms."""
    algorithms = fields.get("algorithm")
    if not isinstance(algorithms, Mapping):
        return {}, dict(fields)
    factories = {label: value for label, value in algorithms.items() if callable(value)}
    built = {label: factory() for label, factory in factories.items()}
    return factories, {**fields, "algorithm": {**algorithms, **built}}
