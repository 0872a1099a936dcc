"""Structured logs: one line an event, on standard error.

A line is `time level event key=value ...`, or the same as JSON. Event names are in kebab-case and never change with
the values they carry, so that an alert can name them.
"""

from __future__ import annotations

import logging
import sys
from enum import Enum

import structlog
from structlog.typing import FilteringBoundLogger


class LogFormat(Enum):
    """How a line is written."""

    TEXT = "text"
    JSON = "json"


def configure(level: str = "info", form: LogFormat = LogFormat.TEXT) -> None:
    """Set up logging for the process. `level`: debug, info, warning, error."""
    renderer: structlog.typing.Processor
    if form is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger of module `name`."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger
