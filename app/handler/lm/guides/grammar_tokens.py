"""A model's vocabulary as llguidance takes it."""

import json
from collections.abc import Iterable
from copy import copy
from typing import Any

from llguidance import LLTokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from app.errors import InvalidRequest


def llguidance_tokenizer(tokenizer: PreTrainedTokenizerBase, num_logits: int, eos_tokens: Iterable[int]) -> LLTokenizer:
    """The tokenizer with each token's bytes, padded to `num_logits` tokens.

    Errors: InvalidRequest where its tokens do not stand for bytes, or none of them ends a text.
    """
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unusable("it is not a fast one")
    ids = set(backend.get_vocab(with_added_tokens=True).values())
    ends = [token for token in eos_tokens if token in ids]
    if not ends:
        raise _unusable("it has no end-of-sequence token")
    backend = copy(backend)
    backend.no_padding()
    backend.no_truncation()
    text = _mended(backend.to_str(), set(range(max(ids) + 1)) - ids, _plain(ends, backend))
    try:
        return LLTokenizer(text, n_vocab=max(num_logits, max(ids) + 1), eos_token=sorted(ends))
    # Where llguidance does not expect a tokenizer's contents it panics, which is no Exception.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise _unusable(str(error)) from error


def _plain(ends: list[int], backend: Tokenizer) -> list[int]:
    """The ends that are pieces of text, too."""
    added = backend.get_added_tokens_decoder()
    return [token for token in ends if token not in added or not added[token].special]


def _mended(text: str, missing: set[int], plain_ends: list[int]) -> str:
    """The tokenizer's JSON with special tokens in all these places.

    llguidance counts the tokens without looking at their ids, and would allow a plain end inside of a text.
    """
    if not missing and not plain_ends:
        return text
    content: dict[str, Any] = json.loads(text)
    vocabulary = content["model"]["vocab"]
    if not isinstance(vocabulary, dict):
        raise _unusable("its tokens are not numbered without gaps")
    names = {token: name for name, token in vocabulary.items()} | {token: f"<no token {token}>" for token in missing}
    vocabulary |= {names[token]: token for token in missing}
    kept = [token for token in content["added_tokens"] if token["id"] not in plain_ends]
    names |= {token["id"]: token["content"] for token in content["added_tokens"]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    made = [{"id": token, "content": names[token], "special": True} | flags for token in (*missing, *plain_ends)]
    content["added_tokens"] = sorted(kept + made, key=lambda token: token["id"])
    return json.dumps(content)


def _unusable(why: str) -> InvalidRequest:
    return InvalidRequest(f"This model's tokenizer cannot be held to an output format: {why}.")
