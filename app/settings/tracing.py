"""Where traces are sent, and whether this installation can send any."""

from importlib.util import find_spec
from urllib.parse import urlsplit

from pydantic import AfterValidator

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_INSTALL = "pip install 'mlx-openai-server[otel]'"


def _collector(value: str | None) -> str | None:
    # As OpenTelemetry has it: a variable that is empty is not set.
    if not value:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://localhost:4318")
    if not _is_installed():
        raise ValueError(f"needs libraries that are not installed: {_INSTALL}")
    return value


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.sdk") is not None and find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        return False


collector_url = AfterValidator(_collector)
