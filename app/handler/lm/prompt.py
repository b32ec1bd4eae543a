"""A conversation to prompt tokens: chat template, tokenizer, context check. Runs in the prepare thread."""

from dataclasses import dataclass, replace

from jinja2 import TemplateError
from mlx_lm.tokenizer_utils import TokenizerWrapper

from app.core.conversation import Conversation, Message, RawPrompt
from app.core.requests import GenerationRequest
from app.errors import ContextLengthExceeded, InvalidRequest
from app.handler.context import num_tokens_at_least
from app.handler.lm.defaults import GenerationDefaults
from app.handler.lm.grammar import Grammar, GrammarCompiler
from app.handler.lm.parameters import SamplingParameters

# Arguments of the tokenizer's own method: a client may not reach them through chat_template_kwargs.
_RESERVED_ARGUMENTS = frozenset(
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


@dataclass(frozen=True, slots=True)
class PreparedGeneration:
    """A generation as the engine takes it: `prompt` has at least one token, `max_tokens` fits the context."""

    prompt: list[int]
    max_tokens: int
    sampling: SamplingParameters
    stop: tuple[str, ...] = ()
    num_choices: int = 1
    top_logprobs: int | None = None
    grammar: Grammar | None = None
    cache_namespace: str = ""
    # Where messages end, in tokens: a cache that cannot be cut is worth keeping there.
    message_ends: tuple[int, ...] = ()
    repetition_guard: int | None = None


class PromptBuilder:
    """Builds prompts for one model. Owned by the prepare thread once the model is loaded."""

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        context_length: int,
        defaults: GenerationDefaults,
        grammars: GrammarCompiler,
    ) -> None:
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._context_length = context_length
        self._defaults = defaults
        self._vocabulary_size = max(tokenizer.get_vocab().values()) + 1
        # The tokens that end an answer or a line, as mlx_lm has it.
        self._xtc_spared = (*tokenizer.eos_token_ids, *self._encode("\n")[-1:])

    def prepare(self, request: GenerationRequest) -> PreparedGeneration:
        """Errors: InvalidRequest, ContextLengthExceeded."""
        prompt = self._prompt(request.prompt)
        room = self._context_length - len(prompt)
        if room < 1:
            raise self._too_long(str(len(prompt)))
        sampling = self._defaults.resolve(request.sampling, self._vocabulary_size)
        if sampling.xtc_probability:
            sampling = replace(sampling, xtc_spared=self._xtc_spared)
        max_tokens = min(request.max_tokens or self._defaults.max_tokens, room)
        asked = request.output_format
        return PreparedGeneration(
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=request.stop,
            num_choices=request.num_choices,
            top_logprobs=request.top_logprobs,
            grammar=self._grammars.compile(asked, max_tokens) if asked is not None else None,
            cache_namespace=request.cache_namespace,
            message_ends=self._message_ends(prompt),
            repetition_guard=request.repetition_guard,
        )

    def _prompt(self, asked: Conversation | RawPrompt) -> list[int]:
        match asked:
            case Conversation():
                return self._tokenize(self._render(asked.messages, asked.template_arguments))
            case RawPrompt(text):
                return self._tokenize(text) if isinstance(text, str) else self._check(text)

    def _check(self, tokens: list[int]) -> list[int]:
        """Token ids from a client."""
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if unknown := [token for token in tokens if not 0 <= token < self._vocabulary_size]:
            raise InvalidRequest(f"The prompt has token {unknown[0]}, which this model does not have.", param="prompt")
        return tokens

    def _render(self, messages: list[Message], arguments: dict[str, object]) -> str:
        if reserved := _RESERVED_ARGUMENTS & arguments.keys():
            raise InvalidRequest(f"chat_template_kwargs cannot set '{min(reserved)}'.", param="chat_template_kwargs")
        if not self._tokenizer.has_chat_template:
            raise InvalidRequest(
                "This model has no chat template; start the server with --chat-template-file to give it one.",
                param="messages",
            )
        conversation = [_as_dict(message) for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True, **arguments
            )
        # A template is a program: these are what one raises when it meets what it did not expect.
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The model's chat template does not accept these messages: {error}", param="messages"
            ) from error
        return str(text)

    def _tokenize(self, text: str) -> list[int]:
        if count := num_tokens_at_least(text, self._encode, self._context_length):
            raise self._too_long(f"at least {count}")
        tokens = self._encode(text)
        if not tokens:
            raise InvalidRequest("The prompt is empty.", param="messages")
        return tokens

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _message_ends(self, prompt: list[int]) -> tuple[int, ...]:
        """After each token that ends a turn: templates close messages with what the model ends its own with."""
        ends = self._tokenizer.eos_token_ids
        return tuple(index + 1 for index, token in enumerate(prompt) if token in ends)

    def _too_long(self, count: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"This model's context is {self._context_length} tokens; the prompt has {count} tokens, which leaves no "
            "room for an answer. Shorten the messages.",
            param="messages",
        )


def _as_dict(message: Message) -> dict[str, str]:
    fields = {"role": message.role, "content": message.content}
    return fields if message.name is None else fields | {"name": message.name}
