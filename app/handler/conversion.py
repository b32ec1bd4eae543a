"""`python -P -m app.handler.conversion JSON`: converts a language model to MLX's form, or to one of fewer bits."""

import sys
from pathlib import Path
from typing import Final

import msgspec
from mlx_lm import convert

from app.core.conversion import Conversion
from app.core.model_config import read_config
from app.core.model_kind import kind_of
from app.errors import ModelLoadError
from app.handler.build_once import build_once
from app.handler.source import resolve

# What the libraries raise for models that are broken, or that they do not know.
_FAULTS: Final = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def carry_out(asked: Conversion) -> None:
    """Write the converted model; its folder appears when it is complete. Errors: ModelLoadError."""
    source = resolve(asked.source, Path(asked.cache_dir), _say)
    if (kind := kind_of(source, None)) != "lm":
        raise ModelLoadError(f"{asked.name} is of kind {kind}; only language models are converted.")
    if asked.bits is not None and (old := read_config(source).get("quantization")):
        bits = old.get("bits") if isinstance(old, dict) else old
        raise ModelLoadError(f"{asked.name} has weights of {bits} bits already; convert the model it was made of.")

    def build(folder: Path) -> None:
        # The library wants to make it itself.
        folder.rmdir()
        convert(
            str(source),
            str(folder),
            quantize=asked.bits is not None,
            q_bits=asked.bits,
            q_group_size=asked.group_size,
            dtype=asked.dtype,
            trust_remote_code=asked.trust_remote_code,
        )

    try:
        build_once(Path(asked.target), build)
    except _FAULTS as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(f"{asked.name} cannot be converted: {first_line}") from error


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


if __name__ == "__main__":
    try:
        carry_out(msgspec.json.decode(sys.argv[1], type=Conversion))
    except ModelLoadError as error:
        sys.exit(f"Error: {error.message}")
    except KeyboardInterrupt:
        sys.exit(1)
