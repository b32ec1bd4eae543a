"""`make bench`: our server against the library alone, in the same run, as ratios."""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click

from app.bench.command import measuring, plan, run, say, show
from app.bench.course import Course
from app.bench.endpoint import endpoint
from app.bench.plan import OWN_PARTS, Plan
from app.bench.prompts import Prompts
from app.bench.report import Report
from app.bench.server import Server, find_server
from bench import cost
from bench.launched import Launched, disk_cache, has_disk_cache, launched
from bench.library import LibraryProcess
from bench.model import SAMPLE, model_folder


@click.command()
@click.option(
    "--model-path", default=SAMPLE, show_default=True, metavar="PATH", help="Folder, hub id or sample name of a model."
)
@click.option("--nano", is_flag=True, help="A random model that costs nothing, with that model's tokenizer.")
@measuring(OWN_PARTS)
def main(model_path: str, nano: bool, **values: Any) -> None:
    """Start our server, measure it, and measure the library alone in the same run, taking turns.

    Ratios of medians come first. See docs/benchmarks.md.
    """
    made, outputs = plan(values)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        folder = model_folder(model_path, nano, Path(directory))
        name = f"{model_path} (nano)" if nano else model_path
        show(run(_measure(folder, name, made, Path(directory))), outputs)


async def _measure(folder: Path, name: str, made: Plan, directory: Path) -> Report:
    course = Course(made, say)
    _note_load(course)
    if set(made.parts) - {"prefix", "cost"}:
        # Both sides compute every prompt: the chat template's own words would come out of the cache.
        with LibraryProcess(folder) as library, launched(folder, directory, "--prompt-cache-bytes", "0") as ours:
            await course.run(await _server(ours), library)
    if "prefix" in made.parts:
        await _measure_prefix(course, folder, directory)
    if "cost" in made.parts:
        await _measure_cost(course, made, folder, directory)
    return Report("our server, beside the library alone", name, made, course.figures, course.notes)


async def _measure_prefix(course: Course, folder: Path, directory: Path) -> None:
    """The prefix cache, and where the server can keep it on disk, what a restart leaves of it."""
    if not has_disk_cache():
        course.note("Not measured: the prefix cache after a restart: the server has no --prompt-cache-dir.")
        with launched(folder, directory) as ours:
            await course.prefix(await _server(ours))
        return
    arguments = disk_cache(directory / "prompt-cache")
    with launched(folder, directory, *arguments) as ours:
        server = await _server(ours)
        await course.prefix(server)
        begun = await course.begin_conversations(server)
    with launched(folder, directory, *arguments) as ours:
        await course.continue_conversations(await _server(ours), begun)


async def _measure_cost(course: Course, made: Plan, folder: Path, directory: Path) -> None:
    """What everything but the model costs, so on a model that costs nothing whatever else was measured."""
    from bench.nano import write_nano

    nano = write_nano(directory / "nano-of-cost", folder)
    prompts = Prompts()
    with launched(nano, directory, "--prompt-cache-bytes", "0", is_watched=True) as ours:
        server = await _server(ours)
        for count in made.concurrencies:
            once = partial(cost.measure, server, prompts, directory, count)
            if measured := await course.rounds(f"cost by place, {count} at once", once, cost.middle_of):
                course.figures.cost[count] = measured
    course.note("What a token costs by place was measured on a nano model, whose forward pass costs next to nothing.")


def _note_load(course: Course) -> None:
    """Ratios bear a busy machine better than figures do, but none bears it well."""
    load, num_cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > num_cores / 2:
        course.note(
            f"The machine was busy before: a load of {load:.1f} on {num_cores} cores. Expect other figures next time."
        )


async def _server(ours: Launched) -> Server:
    return await find_server(endpoint(ours.base_url), None)


if __name__ == "__main__":
    main(prog_name="python -m bench")
