"""What a chat template wants: the choices that `normalisation` follows and `template_probes` finds out."""

from typing import Final, Literal, get_args

import msgspec

ArgumentStyle = Literal["object", "text", "json values", "literals"]
ARGUMENT_STYLES: Final[tuple[ArgumentStyle, ...]] = get_args(ArgumentStyle)
IdStyle = Literal["any", "nine", "by message", "by conversation"]
ToolPlace = Literal["argument", "beside system", "in system", "told", "generic"]


class Traits(msgspec.Struct, frozen=True):
    """The defaults are what most templates want.

    `system`: system messages are taken "anywhere", only at the "front", or not at all, so that the first "user" message
    carries them. `tools`: the argument of that name shows them, or does so only "beside" a system message, or they are
    JSON text "in" the system message, or the model is "told" in the system message how it calls them, or it is asked to
    call them in the "generic" form. `calls` are shown all, one a message ("single"), or not at all, so that they are
    written into the "content" in the form of `family`. `content` may stand "beside" calls, needs a message of its own
    ("apart"), or stays "hidden" there. `arguments` are an object, JSON text, an object whose values other than strings
    are JSON text, or one whose values are Python literals. `ids` are taken as they come ("any"), must be nine letters
    and digits ("nine"), or are functions' names with a number that counts in the message or in the conversation.
    `reasoning` is a field of the message under `reasoning_names`, or a part of its content.
    """

    system: Literal["anywhere", "front", "user"] = "anywhere"
    tools: ToolPlace = "argument"
    calls: Literal["all", "single", "content"] = "all"
    arguments: ArgumentStyle = "object"
    content: Literal["beside", "apart", "hidden"] = "beside"
    results: Literal["tool", "user"] = "tool"
    ids: IdStyle = "any"
    reasoning: Literal["field", "part"] = "field"
    reasoning_names: tuple[str, ...] = ()
    family: str | None = None
    # How the template itself shows a call, for what the model is told.
    call_example: str | None = None
    has_content_parts: bool = False
    # Without tools it wants an empty list.
    has_empty_tools: bool = False
    # A tool or a parameter without a description breaks it.
    needs_descriptions: bool = False
    # User and assistant messages must take turns, the user first.
    alternates: bool = False
    # An assistant message with calls has no content, not even an empty one.
    omits_empty_content: bool = False
    # It refuses content beside reasoning and calls.
    joins_content: bool = False
    # Earlier calls are shown only where there are tools.
    hides_calls: bool = False
    # A null argument would be shown as a word of Python.
    drops_null: bool = False
    # A result that is a JSON object is given as one, or it would be quoted once more.
    parses_results: bool = False
