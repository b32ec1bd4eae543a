"""Which architectures the libraries have, by their own files: nothing of them is imported."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, get_args

from app.core.model_kind import install_command
from app.core.requests import Kind

_PACKAGES: Final[Mapping[Kind, str]] = {
    "lm": "mlx_lm",
    "vlm": "mlx_vlm",
    "embeddings": "mlx_vlm",
    "whisper": "mlx_whisper",
    "speech": "mlx_audio",
    "images": "mflux",
}
# In these files a table says which architectures are others under a new name; the first is looked up first.
_TABLES: Final[Mapping[Kind, tuple[tuple[str, str], ...]]] = {
    "lm": (("utils.py", "MODEL_REMAPPING"),),
    "vlm": (("utils.py", "MODEL_REMAPPING"),),
    "embeddings": (("embedding_loader.py", "EMBEDDING_MODEL_REMAPPING"), ("utils.py", "MODEL_REMAPPING")),
}


@dataclass(frozen=True, slots=True)
class _Library:
    folder: Path
    tables: tuple[Mapping[str, str], ...]


class Architectures:
    """What the installed libraries can load."""

    def __init__(self) -> None:
        self._libraries = {kind: library for kind in get_args(Kind) if (library := _library(kind)) is not None}

    def fault(self, kind: Kind, model_type: str) -> str | None:
        """Why a model cannot be loaded here, in a sentence without its full stop."""
        if fault := self.missing_library(kind):
            return fault
        if self.implementation(kind, model_type) is None:
            return f"{_PACKAGES[kind]} does not know its architecture, {model_type}"
        return None

    def missing_library(self, kind: Kind) -> str | None:
        """What to install before any model of a kind can be loaded."""
        if kind in self._libraries:
            return None
        return f"{_PACKAGES[kind]} is not installed: {install_command(kind)}"

    def implementation(self, kind: Kind, model_type: str) -> str | None:
        """The library's name of an architecture: "llama" for a "mistral". None where it has none."""
        library = self._libraries.get(kind)
        if library is None:
            return None
        if kind not in _TABLES:
            return model_type
        name = model_type if kind == "lm" else model_type.lower()
        for table in library.tables:
            name = table.get(name, name)
        home = library.folder / "models" / name
        return name if home.with_name(f"{name}.py").is_file() or (home / "__init__.py").is_file() else None


def _library(kind: Kind) -> _Library | None:
    spec = find_spec(_PACKAGES[kind])
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    return _Library(folder, tuple(_table(folder / file, name) for file, name in _TABLES.get(kind, ())))


def _table(path: Path, name: str) -> dict[str, str]:
    """The constant dictionary that a module gives a name at its top; empty where there is none."""
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Dict() as value) if found == name:
                return ast.literal_eval(value)
            case _:
                pass
    return {}
