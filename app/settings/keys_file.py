"""The file of API keys: who may use the server, and how much."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

from pydantic import SecretStr

from app.settings.fields import Fields
from app.settings.knobs import Knob, SettingsError, knobs_of
from app.settings.sources import Source, build, check_names, pick, read_bounded
from app.settings.types import ApiKey, Count
from app.settings.yaml_file import load_yaml, mapping_of


class AccessKey(Fields):
    """A key, the name that logs and metrics have for it, and what it allows."""

    name: str
    key: Annotated[ApiKey, Knob("Network and access", "The key itself.", "KEY", secret=True)]
    requests_per_minute: Annotated[Count | None, Knob("Network and access", "Most requests in a minute.", "N")] = None
    tokens_per_minute: Annotated[
        Count | None, Knob("Network and access", "Most tokens in a minute, of prompts and answers.", "N")
    ] = None
    max_concurrency: Annotated[Count | None, Knob("Network and access", "Most requests at once.", "N")] = None
    admin: Annotated[bool, Knob("Network and access", "May load and unload models and empty caches.")] = False


KEY_KNOBS = knobs_of(AccessKey)
# It is a label of metrics and a word in log lines.
_KEY_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_FIELDS = [knob.field for knob in KEY_KNOBS]


def read_keys(path: Path, directory: Path) -> tuple[AccessKey, ...]:
    """The keys of a file: `name: KEY` for each, or `name:` with the fields of an `AccessKey`. Raises SettingsError."""
    keys = tuple(
        _read_key(str(name), value, path, directory) for name, value in mapping_of(load_yaml(path), path.name).items()
    )
    if not keys:
        raise SettingsError(f"{path.name} must name at least one key, as in alice: KEY")
    _refuse_repetitions(path, keys)
    return keys


def unnamed_keys(values: tuple[SecretStr, ...]) -> tuple[AccessKey, ...]:
    """Keys without a name of their own get one that no file can give."""
    return tuple(AccessKey.model_construct(name=f"api_key#{i}", key=key) for i, key in enumerate(values, 1))


def _read_key(name: str, value: object, path: Path, directory: Path) -> AccessKey:
    def spell(field: str) -> str:
        return f"{name}.{field} in {path.name}"

    if not _KEY_NAME.fullmatch(name):
        raise SettingsError(f"the name of a key in {path.name} must be up to 64 letters, digits and . _ @ -")
    fields = cast("Mapping[object, object]", value) if isinstance(value, dict) else {"key": value}
    check_names(fields, _FIELDS, spell)
    if fields.get("key") is None:
        raise SettingsError(f"{name} in {path.name} needs a key, as in {name}: KEY")
    given = {str(field): item for field, item in fields.items() if item is not None}
    return build(AccessKey, pick(KEY_KNOBS, [Source(given, spell)]), directory, name=name)


def _refuse_repetitions(path: Path, keys: tuple[AccessKey, ...]) -> None:
    import yaml

    # YAML's own reading lets the last of two entries win, and the first one's client would be locked out unseen.
    root = yaml.compose(read_bounded(path), Loader=yaml.SafeLoader)
    written = [str(name.value) for name, _ in root.value] if isinstance(root, yaml.MappingNode) else []
    if len(written) > len(keys):
        twice = next(name for name in written if written.count(name) > 1)
        raise SettingsError(f"{twice} is in {path.name} twice: give each key a name of its own")
