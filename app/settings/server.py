"""What is set for the whole server."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from app.settings.access import Access
from app.settings.knobs import Knob, knobs_of
from app.settings.model import ModelSpec
from app.settings.tracing import collector_url
from app.settings.types import (
    Count,
    LogLevel,
    MemoryBudget,
    MemorySize,
    NumBytes,
    Seconds,
    SecondsOrZero,
    Text,
    comma_lists,
    existing_folder,
    not_a_folder,
)


def _user_cache_dir() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("mlx-openai-server")


def _user_store_path() -> Path:
    from platformdirs import user_data_path

    return user_data_path("mlx-openai-server") / "store.sqlite3"


class Settings(Access):
    """Everything about one server; `load_settings` makes it from what the user gave."""

    config: Annotated[
        Path | None,
        Knob(
            "Models",
            "YAML file with a server section and a list of models.",
            "PATH",
            default="none",
            example="config.yaml",
            in_yaml=False,
        ),
    ] = None
    models_dir: Annotated[
        Path | None,
        Knob(
            "Models",
            "Folder whose models are served on demand under their names in it: NAME, or OWNER/NAME one level deeper.",
            "PATH",
            default="none",
            example="models",
        ),
    ] = None
    serve_hub_cache: Annotated[
        bool,
        Knob("Models", "Serve the models in the cache of the Hugging Face hub on demand, under their repository ids."),
    ] = False
    allow_models: Annotated[
        tuple[Text, ...],
        comma_lists,
        Knob(
            "Models",
            "Names of the models to be found there, such as mlx-community/*; several may be given.",
            "PATTERN",
            default="all of them",
            example="mlx-community/*",
        ),
    ] = ()
    allow_model_deletion: Annotated[
        bool, Knob("Models", "Let DELETE /v1/models/NAME delete models of that cache from disk; it takes an API key.")
    ] = False
    allow_remote_media: Annotated[
        bool,
        Knob(
            "Network and access", "Fetch pictures, films and sounds that requests name by URL, from public addresses."
        ),
    ] = False
    media_root: Annotated[
        Path | None,
        existing_folder,
        Knob(
            "Network and access",
            "Folder whose files requests may name, as paths or file:// URLs.",
            "PATH",
            default="none, no files are read",
            example="pictures",
        ),
    ] = None
    max_context_tokens: Annotated[
        Count | None,
        Knob("Limits", "Longest context of every model.", "TOKENS", default="none", example="32768"),
    ] = None
    max_loaded_models: Annotated[
        Count,
        Knob(
            "Limits",
            "On-demand models that are loaded at a time; the one unused for longest makes room for the next.",
            "N",
        ),
    ] = 3
    memory_budget: Annotated[
        MemoryBudget,
        Knob(
            "Limits",
            "Memory for all loaded models together: a size, or a share of the machine's memory or its NVIDIA GPU's.",
            "SIZE",
            default="80%",
            example="48GiB",
        ),
    ] = MemorySize(80, is_percent=True)
    max_body_bytes: Annotated[
        NumBytes,
        Knob("Limits", "Largest request body.", "SIZE", ("max_body_size",), default="64MiB", example="64MiB"),
    ] = 64 * 2**20
    max_media: Annotated[
        Count, Knob("Limits", "Most pictures, films and sounds of a request, its conversation's included.", "N")
    ] = 100
    max_media_bytes: Annotated[
        NumBytes,
        Knob(
            "Limits",
            "Largest of their files; all those of a request have max_body_bytes at most.",
            "SIZE",
            default="50MiB",
            example="50MiB",
        ),
    ] = 50 * 2**20
    media_timeout: Annotated[
        Seconds, Knob("Limits", "Time in which the media that a request names must have been fetched.", "SECONDS")
    ] = 30
    heartbeat_interval: Annotated[
        Seconds, Knob("Limits", "Silence of a stream after which a comment keeps it open.", "SECONDS")
    ] = 5
    shutdown_timeout: Annotated[
        SecondsOrZero, Knob("Limits", "Time that running requests get when the server is stopped.", "SECONDS")
    ] = 30
    cache_dir: Annotated[
        Path,
        Knob(
            "Files",
            "Folder for what is kept between runs.",
            "PATH",
            default="the user's cache folder",
            example="~/.cache/mlx-openai-server",
        ),
    ] = Field(default_factory=_user_cache_dir)
    store_path: Annotated[
        Path,
        Knob(
            "Files",
            "Database of stored responses, conversations and chat completions.",
            "PATH",
            default="store.sqlite3 in the user's data folder",
            example="~/.local/share/mlx-openai-server/store.sqlite3",
        ),
    ] = Field(default_factory=_user_store_path)
    store_in_memory: Annotated[bool, Knob("Files", "Keep what is stored in memory only.")] = False
    store_ttl: Annotated[
        Seconds, Knob("Files", "How long a stored response or conversation is kept after its last use.", "SECONDS")
    ] = 3600
    store_max_bytes: Annotated[
        NumBytes,
        Knob(
            "Files",
            "Most bytes that are stored; what was used longest ago goes first.",
            "SIZE",
            default="1GiB",
            example="1GiB",
        ),
    ] = 2**30
    conversation_logs_dir: Annotated[
        Path | None,
        Knob(
            "Files",
            "Folder for what is stored when its time is over: a JSON file for each response or conversation.",
            "PATH",
            default="none",
            example="conversation_logs",
        ),
    ] = None
    debug: Annotated[bool, Knob("Logging", "The same as the log level DEBUG.", names=("debug", "verbose"))] = False
    log_level: Annotated[
        LogLevel, Field(validate_default=True), Knob("Logging", "DEBUG, INFO, WARNING or ERROR.", "LEVEL")
    ] = "INFO"
    no_log_file: Annotated[bool, Knob("Logging", "Write no log file.")] = False
    log_file: Annotated[
        Path | None,
        not_a_folder,
        Knob("Logging", "Also write the log to this file.", "PATH", default="no file", example="server.log"),
    ] = None
    log_json: Annotated[bool, Knob("Logging", "Write log lines as JSON.")] = False
    log_prompts: Annotated[bool, Knob("Logging", "Log prompts and replies.")] = False
    otlp_endpoint: Annotated[
        str | None,
        collector_url,
        Knob(
            "Logging",
            "Send traces of the requests to this OpenTelemetry collector (OTLP over HTTP).",
            "URL",
            ("otlp_endpoint", "otel_exporter_otlp_endpoint"),
            default="none",
            example="http://localhost:4318",
        ),
    ] = None
    models: tuple[ModelSpec, ...] = (ModelSpec(),)
    # What holds for each model that is found.
    found_spec: ModelSpec = ModelSpec(on_demand=True)

    @property
    def finds_models(self) -> bool:
        """Whether models are served that nobody has configured."""
        return self.models_dir is not None or self.serve_hub_cache

    @field_validator("log_level", mode="after")
    @classmethod
    def _debug_wins(cls, value: LogLevel, info: ValidationInfo) -> LogLevel:
        return "DEBUG" if info.data.get("debug") else value

    @field_validator("log_file", mode="after")
    @classmethod
    def _no_file_wins(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if info.data.get("no_log_file") else value

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        seen = set[str]()
        for model in self.models:
            for name in model.ids:
                if name in seen:
                    own = "its own name" if name in model.adapters else "its own served_model_name"
                    what = "a model and an adapter, or two adapters," if name in model.adapters else "two models"
                    raise ValueError(f"{what} would be served as {name!r}: give each {own}")
                seen.add(name)
        return self


SERVER_KNOBS = knobs_of(Settings)
