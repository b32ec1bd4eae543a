"""What a request gives for a picture, a film or a sound."""

from dataclasses import dataclass, field

from app.core.conversation import MediaKind
from app.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Reference:
    """A URL, or the base64 of a file, and `param`, its place in the request. Two that say the same are equal."""

    kind: MediaKind
    text: str
    param: str = field(compare=False)
    is_base64: bool = False

    def refusal(self, what: str) -> InvalidRequest:
        """The error that says of this place what is wrong with it."""
        return InvalidRequest(f"'{self.param}' {what}.", param=self.param, code="invalid_media")
