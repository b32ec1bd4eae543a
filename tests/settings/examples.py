"""The files that examples of settings name."""

from pathlib import Path


def write_access_files(directory: Path) -> None:
    (directory / "keys.yaml").write_text("alice: sk-alice\n")
    for name in ("server.crt", "server.key"):
        (directory / name).write_text("")
