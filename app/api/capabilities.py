"""What a model can do, from what is known of it."""

from functools import lru_cache

from app.core.conversation import MediaKind
from app.core.requests import Kind
from app.core.served_model import ServedModel
from app.schemas.models import Capability
from app.settings import ModelSpec
from app.text.detection import detect_family, family_of_option
from app.text.families import find_family

_OF_OTHER_KINDS: dict[Kind, list[Capability]] = {
    "embeddings": ["embeddings"],
    "whisper": ["transcription"],
    "speech": ["speech"],
    "images": ["images"],
}
_OF_SENSES: dict[MediaKind, Capability] = {"image": "vision", "video": "video", "audio": "audio"}


def capabilities_of(model: ServedModel) -> list[Capability] | None:
    """None where its kind is not known, or its chat template is not."""
    files = model.life.disk.files
    # Which media it takes beside pictures shows when it is loaded.
    senses = model.info.senses if model.info is not None and model.life.worker is not None else ("image",)
    return capabilities(model.kind, files.chat_template if files else None, model.spec, senses)


def capabilities(
    kind: Kind | None, template: str | None, spec: ModelSpec, senses: tuple[MediaKind, ...] = ("image",)
) -> list[Capability] | None:
    """The same of a model that need not be served; `senses` are the media that it takes if it is one that sees."""
    if kind is None:
        return None
    if kind in _OF_OTHER_KINDS:
        return _OF_OTHER_KINDS[kind]
    if template is None:
        return None
    detected = _family(template)
    found: list[Capability] = ["chat"]
    # Who is not told of tools by its template is told by a prompt of the server's own.
    if spec.tool_call_parser != "none":
        found.append("tools")
    if _reasons(spec.reasoning_parser, detected, template):
        found.append("reasoning")
    return [*found, *(_OF_SENSES[sense] for sense in senses)] if kind == "vlm" else found


@lru_cache(maxsize=1024)
def _family(template: str) -> str | None:
    """Found out once: for hundreds of models it takes a good part of a second."""
    return detect_family(template, frozenset(), None).family


def _reasons(option: str | None, detected: str | None, template: str) -> bool:
    name = detected if option is None else family_of_option(option, detected)
    family = find_family(name) if name is not None else None
    if family is None or family.reasoning is None:
        return False
    # Families share their data with relatives that do not think.
    return option is not None or family.reasoning.close.strip() in template
