"""From flags, environment, .env and YAML to settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from app.settings.keys_file import read_keys
from app.settings.knobs import SettingsError
from app.settings.model import MODEL_KNOBS, OF_ONE_MODEL, ModelSpec
from app.settings.server import SERVER_KNOBS, Settings
from app.settings.sources import Given, Source, build, environment, environment_file, flag_values, pick, resolved
from app.settings.yaml_file import YamlFile, read_yaml


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
    own = pick(MODEL_KNOBS, sources)
    more = {"models": tuple(models), "found_spec": _found_spec(own, directory), "named_keys": keys}
    settings = build(Settings, server, directory, **more)
    if not settings.finds_models or "model_path" in own or yaml.models:
        return settings
    if lonely := next((item for field, item in own.items() if field in OF_ONE_MODEL), None):
        raise SettingsError(f"{lonely.spelled} is of one model: name that with --model-path, or in a list of models")
    # Those that are found are enough: the sample is for whoever names nothing.
    return settings.model_copy(update={"models": ()})


def _found_spec(own: Mapping[str, Given], directory: Path) -> ModelSpec:
    """What flags and environment say of every model."""
    common = {field: item for field, item in own.items() if field not in OF_ONE_MODEL}
    return build(ModelSpec, common, directory).model_copy(update={"on_demand": True})


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
