"""The server process: open the port, say what is served, run until told to stop."""

import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from app.settings import ModelSpec, Settings

if TYPE_CHECKING:
    from app.core.found_models import Search
    from app.core.traces import Traces

_BACKLOG = 2048


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C; gives the exit status. Says in one sentence why it cannot start."""
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        print(
            f"mlx-openai-server: cannot listen at {settings.host}:{settings.port}: {error.strerror}.", file=sys.stderr
        )
        return 1
    # Imported with the port open: who connects now waits for an answer instead of being refused.
    from app.certificate import certificate_problem
    from app.core.machine import models_memory_bytes
    from app.core.registry import Registry
    from app.core.room import Limits
    from app.core.store import StoreError, open_store
    from app.http_server import HttpServer
    from app.logs import set_up_logs
    from app.models.local_models import problem_of_places

    with listener:
        certificate = certificate_problem(settings.ssl_certfile, settings.ssl_keyfile)
        if problem := certificate or problem_of_places(settings):
            print(f"mlx-openai-server: {problem}.", file=sys.stderr)
            return 1
        set_up_logs(settings)
        try:
            store = open_store(settings)
        except StoreError as error:
            print(f"mlx-openai-server: {error}.", file=sys.stderr)
            return 1
        models = tuple(_capped(spec, settings.max_context_tokens) for spec in settings.models)
        print(_banner(settings, models, listener.getsockname()[1]), file=sys.stderr, flush=True)
        limits = Limits(
            settings.max_loaded_models,
            settings.memory_budget.num_bytes(models_memory_bytes()),
            is_budget_given="memory_budget" in settings.model_fields_set,
        )
        registry = Registry(models, settings.cache_dir, limits, _search(settings))
        with _traces(settings) as traces:
            return HttpServer(settings, registry, store, traces).run_until_stopped(listener)


def _traces(settings: Settings) -> "AbstractContextManager[Traces | None]":
    """The traces of the requests, where they are asked for."""
    if settings.otlp_endpoint is None:
        return nullcontext()
    from app.core.traces import open_traces

    return open_traces(settings.otlp_endpoint)


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections to the address wait at. Errors: OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _search(settings: Settings) -> "Search | None":
    """How models are found that nobody has configured, where they are to be."""
    from app.core.found_models import Search
    from app.models.local_models import open_local_models

    if not settings.finds_models:
        return None
    return Search(open_local_models(settings), _capped(settings.found_spec, settings.max_context_tokens))


def _capped(spec: ModelSpec, max_context_tokens: int | None) -> ModelSpec:
    """The model under the server-wide cap on the context."""
    limits = [limit for limit in (spec.context_length, max_context_tokens) if limit]
    return spec.model_copy(update={"context_length": min(limits)}) if limits else spec


def _banner(settings: Settings, models: tuple[ModelSpec, ...], port: int) -> str:
    # With the port open, see above.
    from app.example import example_command

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{'http' if settings.ssl_certfile is None else 'https'}://{host}:{port}"
    key = ' -H "Authorization: Bearer $API_KEY"' if settings.access_keys else ""
    access = "API key" if settings.access_keys else "no key needed"
    lines = [f"mlx-openai-server at {url}  (API: {url}/v1, routes: {url}/docs)", ""]
    lines += [f"  {_described(spec)}" for spec in models]
    lines += [f"  models: those in {place}, loaded on demand" for place in _places(settings)]
    lines += [f"  access: {access}; bodies up to {settings.max_body_bytes >> 20} MiB", ""]
    if models:
        lines += ["Try it once the model is ready:", *example_command(models[0], url, key), ""]
    else:
        lines += ["Which models there are:", f"  curl {url}/v1/models{key}", ""]
    return "\n".join(lines)


def _places(settings: Settings) -> list[str]:
    """Where models are found."""
    folder = [] if settings.models_dir is None else [str(settings.models_dir)]
    return [*folder, "the cache of the Hugging Face hub"] if settings.serve_hub_cache else folder


def _described(spec: ModelSpec) -> str:
    limits = [
        f"with the adapters {' and '.join(spec.adapters)}" if spec.adapters else "",
        "loaded on demand" if spec.on_demand else "",
        f"{spec.max_concurrency or 16} at once" if spec.max_concurrency else "",
        f"{spec.queue_size} may wait up to {spec.queue_timeout:g} s",
        f"{spec.request_timeout:g} s for a request" if spec.request_timeout else "no limit on a request's time",
        f"context up to {spec.context_length} tokens" if spec.context_length else "",
    ]
    source = "" if spec.name == spec.model_path else f" (from {spec.model_path})"
    return f"model: {spec.name}{source}; " + ", ".join(limit for limit in limits if limit)


if __name__ == "__main__":
    from app.cli import main_with_default_command

    main_with_default_command()
