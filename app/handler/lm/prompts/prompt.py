"""A conversation to prompt tokens: chat template, tokenizer, context check. Runs in the prepare thread."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from mlx_lm.tokenizer_utils import TokenizerWrapper
from msgspec import structs

from app.core.conversation import Conversation, RawPrompt
from app.core.requests import GenerationRequest
from app.errors import InvalidRequest
from app.handler.context import num_tokens_at_least, too_long
from app.handler.lm.answer import Reading
from app.handler.lm.defaults import GenerationDefaults
from app.handler.lm.guides.grammar_compiler import GrammarCompiler
from app.handler.lm.guides.guide import Guide
from app.handler.lm.guides.guide_builder import GuideBuilder
from app.handler.lm.prompts.chat_template import ChatTemplate
from app.handler.lm.prompts.infilling import Infilling
from app.handler.lm.prompts.model_markup import ModelMarkup
from app.handler.lm.sampling.parameters import SamplingParameters
from app.handler.lm.sight import Blindness, Look, PromptPictures, Sight
from app.settings import ModelSpec

# Characters of the prompt's end, which tells whether the answer begins in the model's reasoning.
_TAIL: Final = 200


@dataclass(frozen=True, slots=True)
class PreparedGeneration:
    """A generation as the engine takes it: `prompt` has at least one token, `max_tokens` fits the context.

    `echo` is the prompt's text, where the answers are to begin with it.
    """

    prompt: list[int]
    max_tokens: int
    sampling: SamplingParameters
    stop: tuple[str, ...] = ()
    num_choices: int = 1
    top_logprobs: int | None = None
    # How its text is read, and what may come in it; None for plain text and for anything.
    reading: Reading | None = None
    guide: Guide | None = None
    cache_namespace: str = ""
    # Where messages end, in tokens: a cache that cannot be cut is worth keeping there.
    message_ends: tuple[int, ...] = ()
    repetition_guard: int | None = None
    echo: str | None = None
    # The answer's text is a part of the prompt's, not one of its own.
    continues_text: bool = False
    pictures: PromptPictures | None = None
    # The number of its adapter, 0 for none.
    adapter: int = 0

    def keys(self, tokens: list[int]) -> list[int]:
        """The prompt's tokens, and any after them, as the prefix cache is to tell them from other prompts'."""
        return tokens if self.pictures is None else self.pictures.keys(tokens)


class PromptBuilder:
    """Builds prompts for one model. Owned by the prepare thread once the model is loaded."""

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        context_length: int,
        defaults: GenerationDefaults,
        grammars: GrammarCompiler,
        spec: ModelSpec,
    ) -> None:
        self._tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer)
        self.markup = ModelMarkup(spec, self.template, grammars.vocabulary.added)
        self._guides = GuideBuilder(grammars)
        self._context_length = context_length
        self._defaults = defaults
        self._infilling = Infilling(tokenizer)
        self._sight: Sight = Blindness()
        self._vocabulary_size = max(tokenizer.get_vocab().values()) + 1
        # The tokens that end an answer or a line, as mlx_lm has it.
        self._xtc_spared = (*tokenizer.eos_token_ids, *self.encode("\n")[-1:])

    def see_with(self, sight: Sight) -> None:
        """Let conversations have pictures; once, before the first request."""
        self._sight = sight

    def prepare(self, request: GenerationRequest) -> PreparedGeneration:
        """Errors: InvalidRequest, ContextLengthExceeded."""
        look, text = self._rendered(request.prompt, self._context_length)
        prompt = self._tokens(request.prompt, text, self._context_length)
        if not prompt:
            raise InvalidRequest("The prompt is empty.", param=_param(request.prompt))
        room = self._context_length - len(prompt)
        if room < 1 and not (room == 0 and request.max_tokens == 0):
            raise too_long(self._context_length, str(len(prompt)), _param(request.prompt))
        sampling = self._defaults.resolve(request.sampling, self._vocabulary_size)
        if sampling.xtc_probability:
            sampling = replace(sampling, xtc_spared=self._xtc_spared)
        max_tokens = min(self._defaults.max_tokens if request.max_tokens is None else request.max_tokens, room)
        tail = text[-_TAIL:]
        asked = request.prompt
        reading = self.markup.reading(asked, tail) if isinstance(asked, Conversation) else None
        return PreparedGeneration(
            prompt=prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=request.stop,
            num_choices=request.num_choices,
            top_logprobs=request.top_logprobs,
            reading=reading,
            guide=self._guides.build(self.markup.form(request, reading, tail), max_tokens),
            cache_namespace=request.cache_namespace,
            message_ends=self._message_ends(prompt),
            repetition_guard=request.repetition_guard,
            echo=self._echo(request.prompt),
            continues_text=isinstance(asked, RawPrompt) or asked.continues_last,
            pictures=look.placed(prompt) if look is not None else None,
        )

    def tokens(self, asked: Conversation | RawPrompt) -> list[int]:
        """A prompt's tokens; none where it is empty. Errors: InvalidRequest."""
        return self._tokens(asked, self._rendered(asked, None)[1], None)

    def _rendered(self, asked: Conversation | RawPrompt, longest: int | None) -> tuple[Look | None, str]:
        """The pictures of a conversation and its text; a prompt of other kinds has neither. Errors: as of `look`."""
        if not isinstance(asked, Conversation):
            return None, ""
        look = self._sight.look(asked, longest)
        if look is None:
            return None, self._written(asked)
        return look, look.expanded(self._written(look.conversation))

    def _written(self, asked: Conversation) -> str:
        if not asked.continues_last:
            return self.template.render(asked)
        # The template would end the last message; what is to go on is put where an answer begins.
        *before, begun = asked.messages
        return self.markup.continued(self.template.render(structs.replace(asked, messages=before)), begun.content)

    def _tokens(self, asked: Conversation | RawPrompt, rendered: str, longest: int | None) -> list[int]:
        """Errors: InvalidRequest, ContextLengthExceeded at once where there surely are more than `longest`."""
        if isinstance(asked, Conversation):
            text, encode = rendered, self.encode
        elif isinstance(asked.text, str):
            text = asked.text + (asked.suffix or "")
            encode = partial(self.encode, adds_special_tokens=asked.adds_special_tokens)
        else:
            return self.checked(asked.text, "prompt")
        if longest is not None and (count := num_tokens_at_least(text, encode, longest)):
            raise too_long(longest, f"at least {count}", _param(asked))
        if isinstance(asked, RawPrompt) and isinstance(asked.text, str) and asked.suffix is not None:
            return self._infilling.tokens(asked.text, asked.suffix, adds_special_tokens=asked.adds_special_tokens)
        return encode(text)

    def _echo(self, asked: Conversation | RawPrompt) -> str | None:
        if isinstance(asked, Conversation) or not asked.is_echoed:
            return None
        return asked.text if isinstance(asked.text, str) else self.text(asked.text)

    def text(self, tokens: list[int]) -> str:
        """The text of tokens, special ones too."""
        return self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)

    def checked(self, tokens: list[int], param: str) -> list[int]:
        """Token ids from a client. Errors: InvalidRequest when the model does not have one of them."""
        if unknown := [token for token in tokens if not 0 <= token < self._vocabulary_size]:
            raise InvalidRequest(f"'{param}' has token {unknown[0]}, which this model does not have.", param=param)
        return tokens

    def encode(self, text: str, *, adds_special_tokens: bool = False) -> list[int]:
        """The tokens of a text."""
        return self._tokenizer.encode(text, add_special_tokens=adds_special_tokens)

    def _message_ends(self, prompt: list[int]) -> tuple[int, ...]:
        """After each token that ends a turn: templates close messages with what the model ends its own with."""
        ends = self._tokenizer.eos_token_ids
        return tuple(index + 1 for index, token in enumerate(prompt) if token in ends)


def _param(asked: Conversation | RawPrompt) -> str:
    return "messages" if isinstance(asked, Conversation) else "prompt"
