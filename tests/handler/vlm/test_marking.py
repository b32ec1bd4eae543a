"""How templates are told of pictures; what they render is in test_desk.py."""

from app.core.conversation import Media, Message
from app.handler.vlm.marking import Marking, Markings


def shown(role: str, text: str, *positions: int) -> Message:
    media = tuple(Media("image", b"any", position) for position in positions)
    return Message(role, text, media=media)  # type: ignore[arg-type]


def test_places_are_where_the_pictures_are() -> None:
    messages = [shown("user", "abc", 0, 1, 1, 3), shown("assistant", "def"), shown("tool", "g", 1)]
    assert [message.content for message in Markings({"image": Marking("<image>", "*")}).mark(messages)] == [
        "*a**bc*",
        "def",
        "g*",
    ]


def test_pictures_of_results_follow_them_where_the_template_leaves_them_out() -> None:
    messages = [
        shown("user", "a", 1),
        shown("tool", "b", 0, 1),
        shown("tool", "c", 0),
        shown("assistant", "d"),
        shown("tool", "e"),
        shown("tool", "f", 1),
    ]
    marked = Markings({"image": Marking("<image>", "*", shows_results=False)}).mark(messages)
    assert [(message.role, message.content) for message in marked] == [
        ("user", "a*"),
        ("tool", "b"),
        ("tool", "c"),
        ("user", "***"),
        ("assistant", "d"),
        ("tool", "e"),
        ("tool", "f"),
        ("user", "*"),
    ]
    assert not any(message.media for message in marked)


def test_media_of_several_kinds_keep_their_order() -> None:
    """Though the template shows one kind of them in a result."""
    said = Message("tool", "ab", media=(Media("audio", b"any", 0), Media("image", b"any", 1)))
    markings = {"image": Marking("<image>", "*"), "audio": Marking("<audio>", "+", shows_results=False)}
    marked = Markings(markings).mark([said])  # type: ignore[arg-type]
    assert [(message.role, message.content) for message in marked] == [("tool", "ab"), ("user", "+*")]
