"""What a JSON log makes of a line, whatever is in it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import logging
from pathlib import Path
from loguru import logger
from app.logs import set_up_logs
from app.settings import load_settings

set_up_logs(load_settings({"log_json": "true", "log_file": "log"}, {}, Path.cwd()))
logger.bind(model="{x}", place=Path("a")).info("{} <red>", "{y}")
logging.getLogger("library").warning("%s", "plain")
try:
    secret = "in a variable"
    raise ValueError("why")
except ValueError:
    logger.exception("it failed")
"""


def test_every_line_is_an_object_in_the_file_and_on_stderr(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / "log").read_text() == ended.stderr
    first, second, third = (json.loads(line) for line in ended.stderr.splitlines())
    assert first.pop("time").startswith("20")
    assert first == {"level": "INFO", "message": "{y} <red>", "model": "{x}", "place": "a"}
    assert (second["level"], second["message"]) == ("WARNING", "plain")
    assert (third["level"], third["message"]) == ("ERROR", "it failed")
    assert third["exception"].startswith("Traceback")
    assert third["exception"].endswith("ValueError: why\n")
    assert "in a variable" not in third["exception"].replace('secret = "in a variable"', "")
