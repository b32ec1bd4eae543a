"""The command line: `mlx-openai-server launch`, with an option for every setting, and the commands beside it."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from app import __version__
from app.bench.command import bench
from app.connect.command import connect
from app.models.command import models
from app.settings import MODEL_KNOBS, SERVER_KNOBS, Settings, SettingsError, load_settings
from app.settings.knobs import NOT_YET, TOPICS, Knob, flag_of, variable_of

KNOBS = (*SERVER_KNOBS, *MODEL_KNOBS)
PROGRAM = "mlx-openai-server"


class Refusal(click.ClickException):
    """One sentence on stderr and exit status 2."""

    exit_code = 2


class KnobOption(click.Option):
    """One spelling of one setting; its value stays text, which the settings judge as they judge every source's."""

    def __init__(self, knob: Knob, name: str) -> None:
        self.knob = knob
        declared = [flag_of(name), name]
        if knob.kind == "switch":
            # Not click's flag: `--log-json`, `--log-json true` and `--log-json=false` are all meant to parse.
            super().__init__(declared, type=click.UNPROCESSED, is_flag=False, flag_value="true")
        else:
            super().__init__(declared, type=click.UNPROCESSED, multiple=knob.kind in ("list", "paths"))

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Teach click's parser the option, and the flag that switches it off where there is one."""
        super().add_to_parser(parser, ctx)
        if self.knob.off_flag:
            parser.add_option(self, [self.knob.off_flag], dest=self.name, action="store_const", const="false")


class LaunchCommand(click.Command):
    """A command that shows its options by topic and says in one sentence what is wrong with them."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments; a wrong one is a Refusal."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.NoSuchOption as error:
            if error.option_name.removeprefix("--").replace("-", "_") in NOT_YET:
                raise Refusal(f"{error.option_name} is not supported yet") from None
            raise Refusal(error.format_message()) from None
        except click.UsageError as error:
            raise Refusal(error.format_message()) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each topic."""
        for topic in TOPICS:
            with formatter.section(topic):
                formatter.write_dl([help_row(knob) for knob in KNOBS if knob.topic == topic])
        with formatter.section("Other"):
            formatter.write_dl([("--help", "Show this text.")])


def help_row(knob: Knob) -> tuple[str, str]:
    """A knob's flags, and what is said of them."""
    flags = ", ".join(flag_of(name) for name in knob.names)
    if knob.off_flag:
        flags += f" / {knob.off_flag}"
    variables = ", ".join(variable_of(name) for name in knob.names)
    return f"{flags} {knob.metavar}".rstrip(), f"{knob.help} [env: {variables}; default: {knob.default}]"


@click.group()
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """A local server for MLX models that speaks the OpenAI and Anthropic APIs."""


@cli.command(
    cls=LaunchCommand,
    params=[KnobOption(knob, name) for knob in KNOBS for name in knob.names],
    # Left to the command itself, because click would repeat the argument, which may be a second API key.
    context_settings={"allow_extra_args": True, "max_content_width": 110},
)
@click.pass_context
def launch(ctx: click.Context, **values: object) -> None:
    """Serve models until stopped.

    A setting is taken from its flag, else its environment variable, else .env in the working directory, else the
    YAML file given with --config, else its default. With no model named and none to be found, a small sample is served.
    """
    settings = _settings_of(ctx, values)
    from app.main import serve

    ctx.exit(serve(settings))


@cli.command(
    cls=LaunchCommand,
    params=[KnobOption(knob, name) for knob in KNOBS for name in knob.names],
    context_settings={"allow_extra_args": True, "max_content_width": 110},
)
@click.pass_context
def doctor(ctx: click.Context, **values: object) -> None:
    """Say what would go wrong if `launch` were started with the same options, and how to mend it.

    Exit status 1 if there is a problem.
    """
    settings = _settings_of(ctx, values)
    from app.doctor.checkup import check_up

    ctx.exit(check_up(settings))


cli.add_command(bench)
cli.add_command(connect)
cli.add_command(models)


def _settings_of(ctx: click.Context, values: Mapping[str, object]) -> Settings:
    """The settings that a command was given. Errors: Refusal."""
    if ctx.args:
        raise Refusal(f"{ctx.info_name} takes only options, but {len(ctx.args)} of its arguments belong to none")
    try:
        return load_settings(given_flags(values), os.environ, Path.cwd())
    except SettingsError as error:
        raise Refusal(str(error)) from None


def given_flags(values: Mapping[str, object]) -> dict[str, object]:
    """The options that were typed: click gives None, or an empty tuple, for the others."""
    return {name: value for name, value in values.items() if value not in (None, ())}


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """The arguments with `launch` before them, unless they start with a command or ask about the whole program."""
    if arguments and (arguments[0] in cli.commands or arguments[0] in ("--help", "--version")):
        return list(arguments)
    return ["launch", *arguments]


def main() -> None:
    """The console command."""
    cli(prog_name=PROGRAM)


def main_with_default_command() -> None:
    """The same for `python -m app.main`, where `launch` may be left out."""
    cli(with_default_command(sys.argv[1:]), prog_name="python -m app.main")


if __name__ == "__main__":
    main()
