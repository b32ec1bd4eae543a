"""Which certificates a server can speak HTTPS with."""

import subprocess
from pathlib import Path

import pytest

from app.certificate import certificate_problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates with their keys, one key with a password, and a file with both halves."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, secrecy in (("one", ["-nodes"]), ("two", ["-nodes"]), ("locked", ["-passout", "pass:password"])):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN={name}")
        command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", *secrecy, *files)
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "one.key").read_text() + (folder / "one.crt").read_text())
    (folder / "text.crt").write_text("no certificate")
    return folder


def tried(folder: Path, *names: str | None) -> str | None:
    certificate, key = (None if name is None else folder / name for name in names)
    return certificate_problem(certificate, key)


@pytest.mark.parametrize(("certificate", "key"), [("one.crt", "one.key"), ("both.pem", None), (None, None)])
def test_that_can_be_used(folder: Path, certificate: str | None, key: str | None) -> None:
    assert tried(folder, certificate, key) is None


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("one.crt", "two.key", "belong together"),
        ("one.crt", None, "without --ssl-keyfile"),
        ("locked.crt", "locked.key", "need no password"),
        ("text.crt", "one.key", "must be PEM"),
        ("gone.crt", "one.key", "No such file"),
        (None, "one.key", "give --ssl-certfile too"),
    ],
)
def test_that_cannot(folder: Path, certificate: str | None, key: str | None, said: str) -> None:
    problem = tried(folder, certificate, key)
    assert problem is not None
    assert said in problem
    assert "\n" not in problem
