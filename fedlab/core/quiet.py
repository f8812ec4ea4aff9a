"""Silence for libraries that log or warn when they are imported, or while they load."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

CHATTY = ("torchao", "torch.utils._pytree", "transformers")


@contextmanager
def quiet() -> Iterator[None]:
    """Let the chatty libraries log errors only, inside the block.

    torchao reports kernels for other devices and PyTorch's plans; peft uses names that
    transformers is about to change.
    """
    loggers = [logging.getLogger(name) for name in CHATTY]
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
