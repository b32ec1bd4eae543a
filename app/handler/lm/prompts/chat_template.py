"""A model's chat template: finds out once what it wants, then renders any conversation."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Final, cast

from jinja2 import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper
from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from app.core.conversation import Conversation, Message, Reasoning, Tool
from app.errors import InvalidRequest
from app.handler.lm.prompts.normalisation import normalise, with_system
from app.handler.lm.prompts.template_fields import Fields, json_text
from app.handler.lm.prompts.template_probes import probe
from app.handler.lm.prompts.template_traits import Traits
from app.handler.lm.prompts.thinking_switches import ThinkingSwitches
from app.text.detection import Detected, detect_family

# Arguments of the tokenizer's own method: a client may not reach them through chat_template_kwargs.
_RESERVED_ARGUMENTS: Final = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
# A template is a program: these are what one raises when it meets what it did not expect.
_TEMPLATE_ERRORS: Final = (
    TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
_REASONING_NAMES: Final = ("reasoning_content", "reasoning", "thinking")

# Called as the tokenizer's own method: messages, then tools and the template's variables by name.
_Renderer = Callable[..., object]


class ChatTemplate:
    """Renders conversations for one model. Owned by the prepare thread once the model is loaded.

    `traits` is what the template wants, `detected` the family of markup that it speaks of.
    """

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._renderer = _renderer(tokenizer)
        self._source = source = _source(tokenizer)
        self._switches = _switches(tokenizer, source or "")
        self.detected: Detected = detect_family(source, frozenset(tokenizer.get_added_vocab()), _hint(tokenizer))
        usual = Traits(
            reasoning_names=tuple(name for name in _REASONING_NAMES if re.search(rf"\b{name}\b", source or "")),
            family=self.detected.family,
        )
        self.traits = probe(self._attempt, usual) if tokenizer.has_chat_template else usual

    @property
    def knows_tools(self) -> bool:
        """Whether it shows tools; a model whose template does not gets the generic prompt, and calls as that says."""
        return self.traits.tools != "generic"

    def mentions(self, text: str) -> bool:
        """Whether the template has this text in it."""
        return text in (self._source or "")

    def render(self, conversation: Conversation) -> str:
        """The prompt of a conversation, ready for the answer. Errors: InvalidRequest."""
        arguments = conversation.template_arguments
        if reserved := _RESERVED_ARGUMENTS & arguments.keys():
            raise InvalidRequest(f"chat_template_kwargs cannot set '{min(reserved)}'.", param="chat_template_kwargs")
        use = conversation.tools
        tools = use.tools if use is not None and use.choice != "none" else ()
        asked = _with_switch(conversation)
        variables = self._switches.variables_for(asked)
        if use is not None and use.choice == "required" and "tool_choice" in self._switches.variables:
            variables["tool_choice"] = "required"
        variables |= arguments | {"add_generation_prompt": conversation.opens_answer}
        word = self._switches.message_for(asked)
        messages = conversation.messages if word is None else with_system(conversation.messages, word)
        fields, functions = normalise(messages, tools, self.traits)
        try:
            return str(self._renderer(fields, tools=functions, **variables))
        except _TEMPLATE_ERRORS as error:
            raise InvalidRequest(
                f"The model's chat template does not accept these messages: {error}", param="messages"
            ) from error

    def _attempt(self, messages: list[Message], tools: tuple[Tool, ...], traits: Traits) -> str | None:
        """The prompt, None where the template refuses."""
        fields, functions = normalise(messages, tools, traits)
        try:
            return str(self._renderer(fields, tools=functions, add_generation_prompt=True))
        except _TEMPLATE_ERRORS:
            return None


def _with_switch(conversation: Conversation) -> Reasoning:
    """How the model should think, said in whichever way: clients know one variable's name, templates have others."""
    asked = conversation.reasoning
    switch = conversation.template_arguments.get("enable_thinking")
    return replace(asked, is_enabled=switch) if asked.is_enabled is None and isinstance(switch, bool) else asked


def _refuse(*_: object, **__: object) -> str:
    raise InvalidRequest(
        "This model has no chat template; start the server with --chat-template-file to give it one.", param="messages"
    )


def _renderer(tokenizer: TokenizerWrapper) -> _Renderer:
    """What renders: a function of mlx_lm's own where it has one for the model, else the tokenizer.

    The wrapper's method would switch thinking on for models that think; whether they do is the template's decision.
    """
    if not tokenizer.has_chat_template:
        return _refuse
    function: _Renderer | None = tokenizer._chat_template  # pyright: ignore[reportPrivateUsage]
    if function is not None:
        return function
    own: PreTrainedTokenizerBase = tokenizer._tokenizer  # pyright: ignore[reportPrivateUsage]
    return partial(own.apply_chat_template, tokenize=False)


def _source(tokenizer: TokenizerWrapper) -> str | None:
    """The text of what renders: a template, the one for tools where there are several, else a program."""
    function: object = tokenizer._chat_template  # pyright: ignore[reportPrivateUsage]
    if function is not None:
        return _program(inspect.getmodule(function))
    template: str | dict[str, str] | None = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use", template.get("default"))
    if template is None and tokenizer.has_chat_template:
        return _program(type(tokenizer._tokenizer).apply_chat_template)  # pyright: ignore[reportPrivateUsage]
    return template


def _program(code: object) -> str:
    try:
        return inspect.getsource(cast("ModuleType", code))
    except (OSError, TypeError):
        return ""


def _switches(tokenizer: TokenizerWrapper, source: str) -> ThinkingSwitches:
    if isinstance(tokenizer.chat_template, str | dict) and tokenizer._chat_template is None:  # pyright: ignore[reportPrivateUsage]
        return ThinkingSwitches.of(source)
    # mlx_lm gives a program this one.
    return ThinkingSwitches(frozenset({tokenizer._thinking_kwarg}), frozenset())  # pyright: ignore[reportPrivateUsage]


def _hint(tokenizer: TokenizerWrapper) -> str | None:
    """What the tokenizer's configuration says of a parser: mlx_lm's name for one, or transformers' description."""
    name = cast("Fields", tokenizer.init_kwargs).get("tool_parser_type")
    if isinstance(name, str):
        return name
    description: object = getattr(tokenizer, "response_template", None)
    return None if description is None else json_text(description)
