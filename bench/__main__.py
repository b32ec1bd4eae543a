"""`make bench`: our server against the library alone, in the same run, as ratios."""

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from app.bench.command import Failure, measuring, plan, run, say, show
from app.bench.course import Course
from app.bench.endpoint import endpoint
from app.bench.plan import Plan
from app.bench.report import Report
from app.bench.server import Server, find_server
from app.errors import ModelLoadError
from bench.launched import disk_cache, has_disk_cache, launched
from bench.library import LibraryProcess

_SAMPLE = "smollm2-135m-instruct"


@click.command()
@click.option(
    "--model-path", default=_SAMPLE, show_default=True, metavar="PATH", help="Folder, hub id or sample name of a model."
)
@click.option("--nano", is_flag=True, help="A random model that costs nothing, with that model's tokenizer.")
@measuring
def main(model_path: str, nano: bool, **values: Any) -> None:
    """Start our server, measure it, and measure the library alone in the same run, taking turns.

    Ratios of medians come first. See docs/benchmarks.md.
    """
    made, outputs = plan(values)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        folder = _model_folder(model_path, nano, Path(directory))
        name = f"{model_path} (nano)" if nano else model_path
        show(run(_measure(folder, name, made, Path(directory))), outputs)


def _model_folder(model_path: str, nano: bool, directory: Path) -> Path:
    # MLX is imported where a model is converted or written.
    from app.handler.source import resolve
    from app.settings import load_settings

    cache_dir = load_settings({}, {}, directory).cache_dir
    try:
        folder = resolve(model_path, cache_dir, say).absolute()
    except ModelLoadError as error:
        raise Failure(str(error)) from None
    if not nano:
        return folder
    from bench.nano import write_nano

    return write_nano(directory / "nano", folder)


async def _measure(folder: Path, name: str, made: Plan, directory: Path) -> Report:
    course = Course(made, say)
    _note_load(course)
    if set(made.parts) - {"prefix"}:
        # Both sides compute every prompt: the chat template's own words would come out of the cache.
        with LibraryProcess(folder) as library, launched(folder, directory, "--prompt-cache-bytes", "0") as url:
            await course.run(await _server(url), library)
    if "prefix" in made.parts:
        await _measure_prefix(course, folder, directory)
    return Report("our server, beside the library alone", name, made, course.figures, course.notes)


async def _measure_prefix(course: Course, folder: Path, directory: Path) -> None:
    """The prefix cache, and where the server can keep it on disk, what a restart leaves of it."""
    if not has_disk_cache():
        course.note("Not measured: the prefix cache after a restart: the server has no --prompt-cache-dir.")
        with launched(folder, directory) as url:
            await course.prefix(await _server(url))
        return
    arguments = disk_cache(directory / "prompt-cache")
    with launched(folder, directory, *arguments) as url:
        server = await _server(url)
        await course.prefix(server)
        begun = await course.begin_conversations(server)
    with launched(folder, directory, *arguments) as url:
        await course.continue_conversations(await _server(url), begun)


def _note_load(course: Course) -> None:
    """Ratios bear a busy machine better than figures do, but none bears it well."""
    load, num_cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > num_cores / 2:
        course.note(
            f"The machine was busy before: a load of {load:.1f} on {num_cores} cores. Expect other figures next time."
        )


async def _server(url: str) -> Server:
    return await find_server(endpoint(url), None)


if __name__ == "__main__":
    main(prog_name="python -m bench")
