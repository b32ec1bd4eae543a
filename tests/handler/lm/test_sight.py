import pytest

from app.core.conversation import Conversation, Media, MediaKind, Message
from app.core.requests import GenerationRequest, TokenizeRequest
from app.errors import InvalidRequest
from app.handler.lm.handler import LMHandler
from app.handler.lm.sight import MEDIA_PLACES
from app.settings import ModelSpec
from tests.fixtures.driving import Log
from tests.fixtures.tiny_lm import Loaded


@pytest.fixture(scope="module")
def handler(llama: Loaded) -> LMHandler:
    spec = ModelSpec(model_path=str(llama.folder), warmup=False)
    handler = LMHandler(llama.folder, spec, Log().emit)
    handler.load()
    return handler


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_model_for_text_says_that_it_sees_nothing(handler: LMHandler, kind: MediaKind) -> None:
    for place, called in (("", f"messages[1].{kind}[0]"), ("input[3].content[0]", "input[3].content[0]")):
        seen = Message("user", "what is it?", media=(Media(kind, b"any", 0, place=place),))
        conversation = Conversation([Message("system", "be brief"), seen])
        for request in (GenerationRequest(conversation), TokenizeRequest(conversation)):
            with pytest.raises(InvalidRequest) as caught:
                handler.prepare(request)
            assert caught.value.param == called
            assert kind in caught.value.message
            assert "text only" in caught.value.message


def test_nobody_can_guess_what_stands_for_a_medium() -> None:
    assert [len(place) for place in MEDIA_PLACES.values()] == [23, 23, 23]
