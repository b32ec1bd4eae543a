"""Where traces are to be sent: what is accepted, and what is said where that cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import SettingsError, load_settings

ROOT = Path(__file__).parents[2]
COLLECTOR = "http://localhost:4318"


@pytest.mark.parametrize("name", ["OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_the_variable_of_opentelemetry_is_known(tmp_path: Path, name: str) -> None:
    assert load_settings({}, {name: COLLECTOR}, tmp_path).otlp_endpoint == COLLECTOR
    assert load_settings({}, {name: ""}, tmp_path).otlp_endpoint is None
    assert load_settings({}, {}, tmp_path).otlp_endpoint is None


@pytest.mark.parametrize("value", ["localhost:4318", "grpc://localhost:4317", "http://", "4318"])
def test_what_is_no_url_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="--otlp-endpoint must be a URL such as http://localhost:4318"):
        load_settings({"otlp_endpoint": value}, {}, tmp_path)


def test_without_the_libraries_it_says_how_to_install_them(tmp_path: Path) -> None:
    """In a process that finds another package of this name first."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    ended = subprocess.run(
        [sys.executable, "-m", "app.main", "--otlp-endpoint", COLLECTOR],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert (
        "--otlp-endpoint needs libraries that are not installed: pip install 'mlx-openai-server[otel]'" in ended.stderr
    )
