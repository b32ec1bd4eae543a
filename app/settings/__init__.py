"""Every setting, once: the command line, the environment, the YAML file and the documents are read off these fields."""

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from app.settings.keys_file import AccessKey, read_keys, unnamed_keys
from app.settings.knobs import Knob, SettingsError, knobs_of
from app.settings.model import MODEL_KNOBS, SAMPLE_MODEL, Fields, ModelSpec
from app.settings.sources import Given, Source, build, environment, environment_file, flag_values, pick, resolved
from app.settings.types import (
    ApiKey,
    ConfigName,
    Count,
    Host,
    LogLevel,
    MemoryBudget,
    MemorySize,
    ModelType,
    NumBytes,
    Origin,
    Port,
    Seconds,
    SecondsOrZero,
    api_keys,
    comma_lists,
    existing_file,
    existing_folder,
    not_a_folder,
)
from app.settings.yaml_file import YamlFile, read_yaml

__all__ = [
    "MODEL_KNOBS",
    "SAMPLE_MODEL",
    "SERVER_KNOBS",
    "AccessKey",
    "ConfigName",
    "MemorySize",
    "ModelSpec",
    "ModelType",
    "Settings",
    "SettingsError",
    "load_settings",
]


def _user_cache_dir() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("mlx-openai-server")


def _user_store_path() -> Path:
    from platformdirs import user_data_path

    return user_data_path("mlx-openai-server") / "store.sqlite3"


class Settings(Fields):
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
    host: Annotated[Host, Knob("Network and access", "Address to listen at.", "HOST", ("host", "server_host"))] = (
        "127.0.0.1"
    )
    port: Annotated[
        Port, Knob("Network and access", "Port to listen at; 0 for any free one.", "N", ("port", "server_port"))
    ] = 8000
    api_key: Annotated[
        tuple[ApiKey, ...],
        api_keys,
        Knob(
            "Network and access",
            "Key that clients must send; several may be given.",
            "KEY",
            default="none, everybody is served",
            example="replace-with-a-long-random-key",
            secret=True,
        ),
    ] = ()
    api_keys_file: Annotated[
        Path | None,
        Knob(
            "Network and access",
            "YAML file of named keys, each with limits of its own if it is to have some (docs/access.md).",
            "PATH",
            default="none",
            example="keys.yaml",
        ),
    ] = None
    allow_unauthenticated: Annotated[
        bool, Knob("Network and access", "Listen at an address that others can reach without asking for a key.")
    ] = False
    allowed_origins: Annotated[
        tuple[Origin, ...],
        comma_lists,
        Knob(
            "Network and access",
            "Web pages that may call the server (CORS); several may be given.",
            "ORIGIN",
        ),
    ] = ("*",)
    ssl_certfile: Annotated[
        Path | None,
        existing_file,
        Knob(
            "Network and access",
            "Certificate chain (PEM): with it the server speaks HTTPS.",
            "PATH",
            default="none, plain HTTP",
            example="server.crt",
        ),
    ] = None
    ssl_keyfile: Annotated[
        Path | None,
        existing_file,
        Knob(
            "Network and access",
            "The certificate's private key (PEM, without a password).",
            "PATH",
            default="in the file of the certificate",
            example="server.key",
        ),
    ] = None
    open_metrics: Annotated[
        bool, Knob("Network and access", "Answer GET /metrics without a key, for a collector that has none.")
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
            "Memory for all loaded models together: a size, or a share of the machine's memory.",
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
    models: tuple[ModelSpec, ...] = Field(default=(ModelSpec(),), min_length=1)
    # Those of `api_keys_file`.
    named_keys: tuple[AccessKey, ...] = ()

    @property
    def access_keys(self) -> tuple[AccessKey, ...]:
        """Every key that opens the server; none where it is open to everybody."""
        return (*self.named_keys, *unnamed_keys(self.api_key))

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
            if model.name in seen:
                raise ValueError(f"two models would be served as {model.name!r}: give each its own served_model_name")
            seen.add(model.name)
        return self

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        owners: dict[str, str] = {}
        for one in self.access_keys:
            other = owners.setdefault(one.key.get_secret_value(), one.name)
            if other != one.name:
                raise ValueError(f"{other} and {one.name} are the same API key: give each client a key of its own")
        return self

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.access_keys or self.allow_unauthenticated or _is_loopback(self.host):
            return self
        raise ValueError(
            f"host {self.host} can be reached from other machines: set an API key with --api-key or API_KEY,"
            " or accept that everybody is served with --allow-unauthenticated or ALLOW_UNAUTHENTICATED=true"
        )


SERVER_KNOBS = knobs_of(Settings)


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str], directory: Path) -> Settings:
    """The settings that flags (named as in `max_tokens`), environment, .env, YAML and defaults give, in that order.

    Relative paths are taken from `directory`, where .env is looked for. Raises SettingsError.
    """
    names = [name for knob in (*SERVER_KNOBS, *MODEL_KNOBS) for name in knob.names]
    sources = [flag_values(flags, names), environment(environ, names), environment_file(directory / ".env", names)]
    config = pick(SERVER_KNOBS, sources).get("config")
    yaml = _yaml(config, directory) if config else YamlFile()
    models = [build(ModelSpec, pick(MODEL_KNOBS, [*sources, model]), directory) for model in _models_of(yaml, sources)]
    server = _without_outranked(pick(SERVER_KNOBS, [*sources, yaml.server]))
    keys_file = server.get("api_keys_file")
    keys = read_keys(_file(keys_file, directory), directory) if keys_file else ()
    return build(Settings, server, directory, models=tuple(models), named_keys=keys)


def _yaml(config: Given, directory: Path) -> YamlFile:
    return read_yaml(_file(config, directory), SERVER_KNOBS, MODEL_KNOBS)


def _file(given: Given, directory: Path) -> Path:
    path = resolved(given, directory)
    if not isinstance(path, Path):
        raise SettingsError(f"{given.spelled} must be the path of a YAML file")
    return path


def _models_of(yaml: YamlFile, sources: Sequence[Source]) -> Sequence[Source]:
    # A model named by a stronger source replaces the file's list: what else the list says was meant for other models.
    named = any("model_path" in source.values for source in sources)
    return (Source(),) if named or not yaml.models else yaml.models


def _without_outranked(given: dict[str, Given]) -> dict[str, Given]:
    """Drop DEBUG=1 in the environment where --log-level was typed, and the like: switches are settings of a level."""
    for switch, plain in (("debug", "log_level"), ("no_log_file", "log_file")):
        if switch in given and plain in given and given[plain].rank < given[switch].rank:
            given = {field: item for field, item in given.items() if field != switch}
    return given


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
