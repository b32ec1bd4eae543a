"""The ASGI application: routes, layers, lifespan."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request

from app import __version__
from app.api import cache, embeddings, health, index, metrics, models, openai_errors, tokens
from app.api.audio import speech, transcriptions
from app.api.chat import kept as kept_chat
from app.api.chat import routes as chat
from app.api.completions import routes as completions
from app.api.images import routes as images
from app.api.limit_headers import OPENAI_NAMES, anthropic_limit_headers, openai_limit_headers
from app.api.media.reader import open_media
from app.api.messages import errors as anthropic_errors
from app.api.messages import models as anthropic_models
from app.api.messages import routes as messages
from app.api.responses import conversations
from app.api.responses import routes as responses
from app.api.responses.desk import ResponseDesk
from app.api.responses.making import Workplace
from app.core.allowance import Allowance
from app.core.image_shelf import ImageShelf
from app.core.metrics import Metrics
from app.core.registry import Registry
from app.core.store import Store
from app.errors import ServerError
from app.middleware.auth import AuthMiddleware
from app.middleware.body_limit import BodyLimitMiddleware
from app.middleware.error_rendering import ErrorRenderingMiddleware
from app.middleware.limits import LimitsMiddleware
from app.middleware.tracking import TrackingMiddleware
from app.settings import Settings

if TYPE_CHECKING:
    from app.core.traces import Traces

_ROUTERS = (
    *(chat, kept_chat, completions, responses, conversations, messages, embeddings, images, speech, transcriptions),
    *(tokens, models, anthropic_models, health, metrics, cache, index),
)


def create_app(settings: Settings, registry: Registry, store: Store, traces: "Traces | None" = None) -> FastAPI:
    """Put the application together; its lifespan starts the registry's workers, and ends them and the store."""
    media = open_media(settings)
    response_desk = ResponseDesk(Workplace(registry, store, media))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        registry.start()
        store.start()
        try:
            yield
        finally:
            await response_desk.close()
            await registry.close()
            await store.close()

    measured = Metrics()
    layers = _layers(settings, measured, traces)
    app = FastAPI(title="mlx-openai-server", version=__version__, lifespan=lifespan, middleware=layers)
    app.state.registry = registry
    app.state.store = store
    app.state.media = media
    app.state.image_shelf = ImageShelf()
    app.state.response_desk = response_desk
    app.state.metrics = measured
    app.state.settings = settings
    app.add_exception_handler(HTTPException, _raise)
    for module in _ROUTERS:
        app.include_router(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _layers(settings: Settings, measured: Metrics, traces: "Traces | None") -> list[Middleware]:
    """From the outside in."""
    keys = settings.access_keys
    open_paths = frozenset({"/metrics"}) if settings.open_metrics else frozenset[str]()
    return [
        Middleware(
            TrackingMiddleware,
            metrics=measured,
            limit_headers=_limit_headers,
            plain_routes=_plain_routes(),
            traces=traces,
        ),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Request-ID", "X-Process-Time", "Retry-After", *OPENAI_NAMES],
        ),
        Middleware(ErrorRenderingMiddleware, render=_render),
        Middleware(AuthMiddleware, keys=keys, open_paths=open_paths),
        Middleware(LimitsMiddleware, keys=keys),
        Middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes),
    ]


def _plain_routes() -> frozenset[str]:
    """The paths that are routes as they stand."""
    paths = (getattr(route, "path", "") for module in _ROUTERS for route in module.router.routes)
    return frozenset(path for path in paths if path and "{" not in path)


def _render(path: str, error: ServerError, request_id: str) -> Response:
    """An error in the protocol of its path."""
    protocol = anthropic_errors if anthropic_errors.is_anthropic(path) else openai_errors
    return protocol.error_response(error, request_id)


def _limit_headers(path: str, allowance: Allowance) -> dict[str, str]:
    is_anthropic = anthropic_errors.is_anthropic(path)
    return anthropic_limit_headers(allowance) if is_anthropic else openai_limit_headers(allowance)


async def _raise(_request: Request, error: Exception) -> Response:
    """Let the framework's own errors travel on to the layer that renders all of them."""
    raise error


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document of all routes, with the bodies that `read_body` reads."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        documented = [(model, "validation") for module in _ROUTERS for model in module.DOCUMENTED]
        _, definitions = models_json_schema(documented, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        document.setdefault("components", {}).setdefault("schemas", {}).update(definitions.get("$defs", {}))
        app.openapi_schema = document
    return app.openapi_schema
