"""`mlx-openai-server models`: the models on this machine."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.errors import ModelLoadError

if TYPE_CHECKING:
    from app.models.inventory import Found, Inventory

# Everything else is imported by the command that needs it: `launch --help` waits for none of it.

_JSON = click.option("--json", "is_json", is_flag=True, help="Print JSON, for programs.")


class Failure(click.ClickException):
    """One sentence on stderr and exit status 1."""


@click.group(context_settings={"max_content_width": 110})
def models() -> None:
    """List, look at, fetch, remove and convert models."""


@models.command("list")
@click.option("--all", "is_all", is_flag=True, help="Also those that cannot be served, and why.")
@_JSON
def list_models(*, is_all: bool, is_json: bool) -> None:
    """List the models on this machine that can be served.

    They are the samples, and what the cache of the Hugging Face hub has (HF_HUB_CACHE, HF_HOME).
    """
    from app.models.layout import as_json, faults, table

    everything = _inventory().everything()
    servable = [found for found in everything if not found.fault]
    others = [found for found in everything if found.fault]
    if is_json:
        click.echo(as_json(everything if is_all else servable))
        return
    click.echo(table(servable))
    if is_all and others:
        click.echo(f"\nThese cannot be served:\n\n{faults(others)}")
    elif others:
        click.echo(f"\n{len(others)} cannot be served; --all says why.")


@models.command()
@click.argument("name", metavar="NAME|FOLDER")
@_JSON
def info(name: str, *, is_json: bool) -> None:
    """Say what a model is, what it takes, and how its answers will be read."""
    from app.models.info import described, inform
    from app.models.layout import as_json

    found = _inventory().find(name)
    if found is None and (Path(name).expanduser().exists() or name.startswith(("/", ".", "~"))):
        raise Failure(f"{name} is no model's folder and no .gguf file; name one of these, or a model's id on the hub.")
    if found is None:
        raise Failure(f"{name} is not on this machine; `mlx-openai-server models pull {name}` would fetch it.")
    about = inform(found)
    click.echo(as_json(about) if is_json else described(about))


@models.command()
@click.argument("repo")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit.", show_default="main")
def pull(repo: str, revision: str | None) -> None:
    """Fetch a model from the Hugging Face hub: the files that serving it needs, into the hub's cache."""
    found = _pulled(_inventory(), repo, revision)
    from app.models.layout import launch_command, size_text

    click.echo(f"{repo} is complete: {size_text(found.size_bytes)} in {found.place}")
    if found.fault:
        raise Failure(f"{repo} cannot be served: {found.fault}.")
    # The name alone means the main version.
    click.echo(f"Serve it: {launch_command(repo if revision in (None, 'main') else str(found.place))}")


@models.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, *, yes: bool) -> None:
    """Remove a model from the cache of the Hugging Face hub."""
    from app.models.layout import size_text
    from app.models.removal import plan_removal

    with _failures():
        removal = plan_removal(name)
    size = size_text(removal.freed_bytes)
    if not yes:
        click.confirm(f"Remove {name} ({size}, {removal.folder})?", abort=True)
    if not removal.carry_out():
        raise Failure(f"{removal.folder} could not be removed whole; see whose its files are (chown, chmod).")
    click.echo(f"{name} is removed; {size} are free again.")


@models.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--bits", type=click.Choice(["2", "3", "4", "5", "6", "8"]), help="Bits of each weight.")
@click.option(
    "--group-size", type=click.Choice(["32", "64", "128"]), help="Weights that share a scale; 64 if not said."
)
@click.option("--dtype", type=click.Choice(["float16", "bfloat16", "float32"]), help="Type of what is not quantised.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with the model.")
def convert(source: str, target: Path, **options: object) -> None:
    """Convert a language model to MLX's form, or to fewer bits.

    SRC is a folder, a .gguf file, a sample or a hub id; the folder DST must not exist yet.
    """
    if options["group_size"] is not None and options["bits"] is None:
        raise click.UsageError("--group-size needs --bits.")
    if target.exists():
        raise Failure(f"{target} exists already; name a new folder.")
    import msgspec

    from app.core.conversion import Conversion
    from app.models.conversion import run_conversion
    from app.models.layout import launch_command, size_text

    inventory = _inventory()
    found = inventory.find(source)
    if found is None or found.origin == "hub":
        found = _pulled(inventory, source, None)
    if found.fault:
        raise Failure(f"{source} cannot be converted: {found.fault}.")
    place = source if found.origin == "sample" else str(found.place)
    fixed = {"name": source, "source": place, "target": str(target), "cache_dir": str(inventory.cache_dir)}
    # Not strict: click's choices are texts.
    with _failures():
        if not run_conversion(msgspec.convert(fixed | options, Conversion, strict=False)):
            sys.exit(1)
    click.echo(f"{target} is complete: {size_text(inventory.look_at(source, target).size_bytes)}")
    click.echo(f"Serve it: {launch_command(str(target))}")


def _inventory() -> "Inventory":
    """With the cache folder of the settings. Errors: Failure."""
    from app.models.inventory import Inventory
    from app.settings import SettingsError, load_settings

    try:
        return Inventory(load_settings({}, os.environ, Path.cwd()).cache_dir)
    except SettingsError as error:
        raise Failure(str(error)) from None


def _pulled(inventory: "Inventory", repo: str, revision: str | None) -> "Found":
    """A model of the hub, whole in the cache. Errors: Failure."""
    from app.core.hub import download
    from app.core.samples import find_sample

    if find_sample(repo) is not None or Path(repo).expanduser().exists():
        raise Failure(f"{repo} is no model of the hub, but one that is here already.")
    with _failures():
        return inventory.look_at(repo, download(repo, revision))


@contextmanager
def _failures() -> Generator[None]:
    """Errors about models are sentences on stderr."""
    try:
        yield
    except ModelLoadError as error:
        raise Failure(error.message) from None
