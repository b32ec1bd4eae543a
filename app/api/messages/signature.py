"""The signature of a thinking block: with `display: "omitted"` it carries what the model thought and is not shown."""

import base64

from app.errors import InvalidRequest
from app.schemas.messages import ThinkingBlock

_CARRIES = "thinking:"


def carrying_signature(thinking: str) -> str:
    """The signature of a block whose text is not shown."""
    return _CARRIES + base64.b64encode(thinking.encode()).decode()


def thinking_of(block: ThinkingBlock, path: str) -> str:
    """What a block thought, shown or not. Errors: InvalidRequest when a signature that carries it was changed."""
    if block.thinking or not block.signature.startswith(_CARRIES):
        return block.thinking
    try:
        return base64.b64decode(block.signature.removeprefix(_CARRIES), validate=True).decode()
    except ValueError:
        raise InvalidRequest(
            "The signature of a thinking block must come back as it was given.", param=f"{path}.signature"
        ) from None
