"""Local objectives of a cohort: the terms that an algorithm adds to the loss, checked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedlab.core import Cohort, Phase, Terms
from fedlab.core.validate import is_number
from fedlab.engine.run_state import Run


def checked_terms(run: Run, cohort: Cohort) -> Terms:
    """Return the algorithm's terms for a cohort, in the precision of the model.

    Raises:
        ValueError: If a term has a type, a range or a shape that clients cannot train with.
    """
    terms = run.experiment.algorithm.local_objective(run.state, cohort)
    if not isinstance(terms, Terms):
        raise ValueError(
            f"the algorithm's terms gave {type(terms).__name__} and must give Terms. Try Terms()"
        )
    _check_numbers(terms)
    m, d = len(cohort.ids), len(run.w)
    _check_tensor("h", terms.h, [(m, d)])
    _check_tensor("mask", terms.mask, [(d,), (m, d)])
    _check_tensor("centre", terms.centre, [(d,), (m, d)])
    if terms.mask is not None:
        # Later rounds are not checked: comparing every number costs time.
        if cohort.round == 1 and not ((terms.mask == 0) | (terms.mask == 1)).all():
            raise ValueError(
                "the algorithm's terms have a mask with other numbers than 0 and 1. Try mask.bool()"
            )
        terms = terms._replace(mask=terms.mask.to(run.w))
    phases = tuple(terms.phases)
    if not all(isinstance(phase, Phase) for phase in phases):
        raise ValueError(
            f"the algorithm's terms have phases={phases!r}, which must be Phase records. "
            "Try Phase(fixed, epochs)"
        )
    if terms.centre is not None:
        terms = terms._replace(centre=terms.centre.to(run.w).expand(m, d))
    return terms._replace(phases=phases)


def _check_numbers(terms: Terms) -> None:
    if not (is_number(terms.mu) and terms.mu >= 0):
        raise ValueError(
            f"mu={terms.mu!r} must be a number of at least 0 (a proximal term pulls back). Try 0.01"
        )
    if not (is_number(terms.lr) and terms.lr > 0):
        raise ValueError(
            f"the algorithm's terms have lr={terms.lr!r}, which must be above 0 (it multiplies the "
            "learning rate). Try 1"
        )


def _check_tensor(name: str, value: Any, shapes: list[tuple[int, ...]]) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise ValueError(
            f"the algorithm's terms have {name} as {type(value).__name__}, which must be a tensor. "
            "Try torch.as_tensor"
        )
    if tuple(value.shape) not in shapes:
        allowed = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"the algorithm's terms have {name} of shape {list(value.shape)}, which must be "
            f"{allowed}"
        )
