"""Text to tokens and back, for those who ask for no more. Runs in the prepare thread."""

from mlx_lm.tokenizer_utils import TokenizerWrapper

from app.core.events import Detokenized, Tokenized
from app.core.requests import DetokenizeRequest, TokenizeRequest
from app.handler.lm.prompts.prompt import PromptBuilder


class TokenLists:
    """Answers token requests for one model. Owned by the prepare thread once the model is loaded."""

    def __init__(self, tokenizer: TokenizerWrapper, prompts: PromptBuilder) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts

    def tokenize(self, request: TokenizeRequest) -> Tokenized:
        """Errors: InvalidRequest when the prompt cannot be made."""
        tokens = self._prompts.tokens(request.prompt)
        return Tokenized(tokens, self._pieces(tokens) if request.has_pieces else None)

    def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Errors: InvalidRequest when the model does not have one of the tokens."""
        tokens = self._prompts.checked(request.tokens, "tokens")
        return Detokenized(self._prompts.text(tokens))

    def _pieces(self, tokens: list[int]) -> list[str]:
        # Vocabularies have holes: such a token stands for nothing.
        pieces: list[str | None] = self._tokenizer.convert_ids_to_tokens(tokens)
        return [piece or "" for piece in pieces]
