"""How much text fits a model: its context length, and a quick look at texts far beyond it."""

from collections.abc import Callable, Mapping, Sequence

_FALLBACK_TOKENS = 32768
_LIMIT_NAMES = ("max_position_embeddings", "max_sequence_length", "seq_length", "n_positions", "model_max_length")
# These number their positions from pad_token_id + 1 on, and their limit counts the numbers before it, too.
_OFFSET_TYPES = frozenset({"camembert", "roberta", "xlm-roberta"})

# More than the characters per token of any text that people write.
_CHARACTERS_PER_TOKEN = 16
# What a cut may add: WordPiece takes a long word for one token, and what is left of it for up to a hundred.
_CUT_TOKENS = 100


def context_length(config: Mapping[str, object], asked: int | None) -> int:
    """Tokens of input and answer together: the limit in the model's config.json, or less if the settings say so."""
    text_config = config.get("text_config")
    layers = [config, text_config] if isinstance(text_config, dict) else [config]
    own = next((value for layer in layers for name in _LIMIT_NAMES if isinstance(value := layer.get(name), int)), None)
    if own and config.get("model_type") in _OFFSET_TYPES and isinstance(padding := config.get("pad_token_id"), int):
        own -= padding + 1
    limits = [limit for limit in (own, asked) if limit]
    return min(limits) if limits else _FALLBACK_TOKENS


def num_tokens_at_least(text: str, encode: Callable[[str], Sequence[int]], limit: int) -> int:
    """Whether tokenizing all of a long text can be spared: a count over `limit` that it surely has, else 0.

    Only its beginning is tokenized. The characters alone say too little: a tokenizer may drop spaces, or know no token
    for a word however long.
    """
    head = text[: _CHARACTERS_PER_TOKEN * (limit + _CUT_TOKENS)]
    if len(head) == len(text):
        return 0
    count = len(encode(head)) - _CUT_TOKENS
    return count if count > limit else 0
