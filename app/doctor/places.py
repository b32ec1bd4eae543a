"""Checks of where the server listens and writes, and of who may reach it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.certificate import certificate_problem
from app.doctor.finding import Finding
from app.main import listen
from app.settings import Settings

_LITTLE_BYTES = 2**30


def address_findings(settings: Settings) -> Iterator[Finding]:
    """Whether the port is free, and the certificate can be used."""
    address = f"{settings.host}:{settings.port}"
    try:
        listen(settings.host, settings.port).close()
    except OSError as error:
        fix = "stop the program that listens there, or choose another address with --port and --host"
        yield Finding("port", "problem", f"{address}: {error.strerror}", fix)
    else:
        yield Finding("port", "ok", f"{address} is free")
    if problem := certificate_problem(settings.ssl_certfile, settings.ssl_keyfile):
        yield Finding("HTTPS", "problem", problem, "give other files with --ssl-certfile and --ssl-keyfile")


def access_findings(settings: Settings) -> Iterator[Finding]:
    """Whether keys are kept secret."""
    count = len(settings.access_keys)
    yield Finding("access", "ok", f"{count} API keys" if count else "no key is needed")
    path = settings.api_keys_file
    if path is not None and path.stat().st_mode & 0o077:
        yield Finding("keys file", "warning", f"{path} can be read by others", f"chmod 600 {path}")


def folder_findings(settings: Settings) -> Iterator[Finding]:
    """Whether what is kept can be written."""
    places: dict[str, Path | None] = {
        "cache folder": settings.cache_dir,
        "store": None if settings.store_in_memory else settings.store_path.parent,
        "conversation logs": settings.conversation_logs_dir,
        "log file": settings.log_file and settings.log_file.parent,
    }
    for model in settings.models:
        places[f"prompt cache of {model.name}"] = model.prompt_cache_dir
    for subject, folder in places.items():
        if folder is not None:
            yield _folder_finding(subject, folder)


def _folder_finding(subject: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding(subject, "problem", f"{existing} is a file", "give another folder, or move that file away")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        about = f"{existing} cannot be written to: {error.strerror}"
        return Finding(subject, "problem", about, "give another folder, or change whose it is (chown, chmod)")
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < _LITTLE_BYTES:
        return Finding(subject, "warning", f"{folder} has only {free_bytes >> 20} MiB left", "make room on its disk")
    return Finding(subject, "ok", str(folder))
