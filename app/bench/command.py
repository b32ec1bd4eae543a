"""`mlx-openai-server bench`: measure any OpenAI-compatible server."""

import re
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app.bench.plan import PARTS, Outputs, Part, Plan

# What measures is imported when it is called for: `launch --help` needs none of it.
if TYPE_CHECKING:
    from app.bench.endpoint import Endpoint
    from app.bench.report import Report

_MOST_AT_ONCE = 256
_DEFAULT = Plan()
Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")


class Failure(click.ClickException):
    """One sentence on stderr and exit status 1."""


class Counts(click.ParamType):
    """`1,4,8`: how many requests at once."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """To numbers, each once and in order."""
        words = re.split(r"[,\s]+", value.strip())
        counts = sorted({int(word) if word.isdecimal() else 0 for word in words})
        if not 1 <= counts[0] <= counts[-1] <= _MOST_AT_ONCE:
            self.fail(f"{value} is no list of numbers from 1 to {_MOST_AT_ONCE}, as in 1,4,8", param, ctx)
        return tuple(counts)


_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--concurrency",
        type=Counts(),
        default=",".join(map(str, _DEFAULT.concurrencies)),
        show_default=True,
        metavar="N,N,...",
        help="How many requests at once.",
    ),
    click.option(
        "--rounds",
        type=click.IntRange(1, 50),
        default=_DEFAULT.num_rounds,
        show_default=True,
        metavar="N",
        help="Rounds that count; one before them does not.",
    ),
    click.option(
        "--num-tokens",
        type=click.IntRange(8, 1024),
        default=_DEFAULT.num_tokens,
        show_default=True,
        metavar="N",
        help="Length of an answer whose speed is measured.",
    ),
    click.option(
        "--max-time",
        type=click.FloatRange(min=1),
        default=_DEFAULT.max_time_s,
        show_default=True,
        metavar="SECONDS",
        help="Begin nothing new after this time.",
    ),
    click.option("--json", type=_FILE, help="Write all figures to this file."),
    click.option("--svg", type=_FILE, help="Write a plot to this file."),
)


def measuring(parts: Sequence[Part]) -> Callable[[Command], Command]:
    """With the options of everything that measures, and these parts to choose from."""
    only = click.option(
        "--only", multiple=True, type=click.Choice(parts), default=parts, help="Measure only this; may be repeated."
    )

    def with_options(command: Command) -> Command:
        for option in reversed((only, *_OPTIONS)):
            command = option(command)
        return command

    return with_options


def plan(values: dict[str, Any]) -> tuple[Plan, Outputs]:
    """What these options say."""
    made = Plan(values["concurrency"], values["rounds"], values["num_tokens"], values["max_time"], values["only"])
    return made, Outputs(values["json"], values["svg"])


def say(sentence: str) -> None:
    """Progress, apart from the result."""
    click.echo(sentence, err=True)


def run(measured: Coroutine[Any, Any, Result]) -> Result:
    """Run it in a loop as cheap as there is. Errors: Failure."""
    import asyncio

    import uvloop

    from app.bench.endpoint import CallFailed

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measured)
    except CallFailed as failure:
        raise Failure(f"{failure}.") from None


def show(report: "Report", outputs: Outputs) -> None:
    """Print the tables and write the files."""
    from app.bench.plot import as_svg
    from app.bench.report import as_json, as_text

    click.echo(as_text(report), nl=False)
    if outputs.json:
        outputs.json.write_text(as_json(report), encoding="utf-8")
    if outputs.svg:
        outputs.svg.write_text(as_svg(report), encoding="utf-8")


@click.command(context_settings={"max_content_width": 110})
@click.option("--base-url", required=True, metavar="URL", help="Where the server is: http://127.0.0.1:8000/v1")
@click.option("--model", metavar="NAME", help="The model to ask; the first one that the server lists by default.")
@click.option("--api-key", metavar="KEY", default="", envvar="BENCH_API_KEY", show_envvar=True, help="Key to send.")
@measuring(PARTS)
def bench(base_url: str, model: str | None, api_key: str, **values: Any) -> None:
    """Measure an OpenAI-compatible server, this one or another.

    Speed with several requests at once, what a long prompt does to a running stream, the prefix cache, JSON schemas.
    What the server cannot do is shown as "-". See docs/benchmarks.md.
    """
    from app.bench.endpoint import endpoint

    made, outputs = plan(values)
    try:
        where = endpoint(base_url, api_key)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    show(run(_measure(where, model, made)), outputs)


async def _measure(where: "Endpoint", model: str | None, made: Plan) -> "Report":
    from app.bench.course import Course
    from app.bench.report import Report
    from app.bench.server import find_server

    server = await find_server(where, model)
    course = Course(made, say)
    await course.run(server)
    if "prefix" in made.parts:
        await course.prefix(server)
    return Report(where.url, server.model, made, course.figures, course.notes)
