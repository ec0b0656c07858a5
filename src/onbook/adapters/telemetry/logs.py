"""Structured logs: one canonical line per request at INFO; prompt text at DEBUG only."""

import logging
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TextIO

import structlog

from onbook.settings import LogFormat, LogLevel

if TYPE_CHECKING:
    from structlog.typing import Processor

_LEVELS: Final[dict[LogLevel, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# What the flow has to say about the request that is being served, for its canonical line.
canonical_fields: ContextVar[dict[str, object] | None] = ContextVar(
    "canonical_fields", default=None
)


def configure_logging(level: LogLevel, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Set up logging for this process: lines go to ``stream``, standard error by default."""
    out = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library; their debug output is not ours to show.
    logging.basicConfig(level=max(_LEVELS[level], logging.WARNING), stream=out, force=True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keep a library's message, but of its exception only the type: the rest may be a prompt."""
    if record.exc_info:
        kind = record.exc_info[0]
        record.msg = f"{record.msg} ({kind.__name__ if kind else 'unknown'})".replace("\n", " ")
        record.exc_info = record.exc_text = None
    return True
