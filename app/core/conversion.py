"""What is asked of the process that converts a model."""

from typing import Literal

import msgspec

Dtype = Literal["float16", "bfloat16", "float32"]


class Conversion(msgspec.Struct, frozen=True):
    """`source` is a sample, a folder or a .gguf file, and `name` what the user called it.

    Without `bits` nothing is quantised; without `dtype` numbers keep the type that the source's config.json names.
    """

    name: str
    source: str
    target: str
    cache_dir: str
    bits: int | None = None
    group_size: int | None = None
    dtype: Dtype | None = None
    trust_remote_code: bool = False
