"""Libraries that talk when they are imported, or while they load."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TALKING = ("torchao", "torch.utils._pytree", "transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of them, within: torchao tells of kernels for other devices, and of PyTorch's plans; peft uses what
    transformers is about to rename.
    """
    loggers = [logging.getLogger(name) for name in TALKING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
