"""The log: loguru, with the standard library's loggers led into it."""

import logging
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from loguru import logger

from app.settings import Settings

if TYPE_CHECKING:
    from loguru import Record

_FORMAT = "<green>{time:YYYY-MM-DD HH:mm:ss.SSS}</green> <level>{level: <7}</level> {message}"
_LOG_FILE_ROTATION = "50 MB"
_LOG_FILE_RETENTION = 5


class _ToLoguru(logging.Handler):
    """Hands a standard log record to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL") else "INFO"
        logger.opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def set_up_logs(settings: Settings) -> None:
    """Send everything to stderr, and to the log file if there is one; tracebacks show no values of variables."""
    add = partial(
        logger.add,
        level=settings.log_level,
        format=_json_line if settings.log_json else _FORMAT,
        backtrace=False,
        diagnose=False,
    )
    logger.remove()
    add(sys.stderr)
    if settings.log_file is not None:
        add(settings.log_file, rotation=_LOG_FILE_ROTATION, retention=_LOG_FILE_RETENTION)
    logging.basicConfig(handlers=[_ToLoguru()], level=settings.log_level, force=True)
    # The tracking middleware writes one line per request, with more in it.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("uvicorn", "uvicorn.error", "asyncio", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _json_line(record: "Record") -> str:
    """The template of a line that is one JSON object: when, how serious, what, and what the line is about."""
    extra = {name: value for name, value in record["extra"].items() if name != "json"}
    line = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": record["message"],
        **extra,
    }
    if (error := record["exception"]) is not None:
        line["exception"] = "".join(traceback.format_exception(error.type, error.value, error.traceback))
    # Not the line itself: loguru would take its braces for places.
    record["extra"]["json"] = msgspec.json.encode(line, enc_hook=str).decode()
    return "{extra[json]}\n"
