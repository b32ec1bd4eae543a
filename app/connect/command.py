"""`mlx-openai-server connect`: point a client at the running server."""

import os
import shutil
from pathlib import Path

import click

from app.connect.recipes import RECIPES, Program, Target
from app.settings import SettingsError, load_settings


class Failure(click.ClickException):
    """One sentence on stderr and exit status 1."""


@click.command(context_settings={"max_content_width": 110})
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.option("--url", help="The server's address.", metavar="URL", show_default="where `launch` would listen")
@click.option("--model", help="The model to use.", metavar="NAME", show_default="the first that the server serves")
@click.option("--api-key", help="The server's key.", metavar="KEY", show_default="that of `launch`")
@click.option("--run", "runs", is_flag=True, help="Start the client instead of printing how; -- ends our options.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def connect(
    name: str, url: str | None, model: str | None, api_key: str | None, *, runs: bool, arguments: tuple[str, ...]
) -> None:
    """Say how a client is pointed at the running server, or start it so.

    ARGUMENTS go to the client, as in: connect claude --run -- --continue
    """
    recipe = RECIPES[name]
    target = _target(url, model, api_key)
    if not runs:
        if arguments:
            raise click.UsageError("Arguments for the client need --run.")
        click.echo(recipe.explain(target))
        return
    if recipe.program is None:
        raise Failure(f"{recipe.title} has to be set up by hand; without --run this command says how.")
    _start(recipe.title, recipe.program(target), arguments)


def _target(url: str | None, model: str | None, api_key: str | None) -> Target:
    """The running server. Errors: Failure when there is none."""
    try:
        settings = load_settings({}, os.environ, Path.cwd())
    except SettingsError as error:
        raise Failure(str(error)) from None
    if url is None:
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
        scheme = "http" if settings.ssl_certfile is None else "https"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
    url = url.rstrip("/").removesuffix("/v1")
    key = api_key or next((key.key.get_secret_value() for key in settings.access_keys), None)
    return Target(url, _served_model(url, key, model), key)


def _served_model(url: str, key: str | None, asked: str | None) -> str:
    """The model's name as the server has it: the one asked for, else the first. Errors: Failure."""
    # Half a second to import, which `launch` need not wait for.
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{url}/v1/models", headers=headers, timeout=10)
        if reply.status_code == 401:
            raise Failure(f"The server at {url} wants a key; give it with --api-key.")
        names: list[str] = [model["id"] for model in reply.raise_for_status().json()["data"]]
    except httpx.ConnectError:
        raise Failure(
            f"No server answers at {url}; start one with `mlx-openai-server launch`, or give --url."
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise Failure(f"What answers at {url} is no such server: {error}") from None
    if asked is not None and asked not in names:
        raise Failure(f"The server at {url} has no model '{asked}'; it has {', '.join(names)}.")
    if not names:
        raise Failure(f"The server at {url} serves no model.")
    return asked or names[0]


def _start(title: str, program: Program, arguments: tuple[str, ...]) -> None:
    """Become the program."""
    path = shutil.which(program.arguments[0])
    if path is None:
        raise Failure(f"{title} is not installed: there is no program '{program.arguments[0]}' on the PATH.")
    os.execvpe(path, [*program.arguments, *arguments], os.environ | dict(program.environment))  # noqa: S606
