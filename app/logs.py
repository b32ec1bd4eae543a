"""The log: loguru, with the standard library's loggers led into it."""

import logging
import sys
from functools import partial

from loguru import logger

from app.settings import Settings

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
        format=_FORMAT,
        backtrace=False,
        diagnose=False,
        serialize=settings.log_json,
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
