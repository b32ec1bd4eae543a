"""Turns the tokenizer inside a `.gguf` file into the files that Hugging Face's tokenizers read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from app.errors import ModelLoadError
from app.handler.gguf_header import GgufHeader

# Values of `tokenizer.ggml.token_type`, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_NORMAL: Final = 1
_UNKNOWN: Final = 2
_CONTROL: Final = 3
_USER_DEFINED: Final = 4

# A chat model may end its turn with any of these, whichever one its file names as *the* end (llama.cpp does the same).
_END_TEXTS: Final = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"}
)


@dataclass(frozen=True, slots=True)
class _Split:
    """How a byte-level BPE cuts text into words; `pattern` is None where ByteLevel's own GPT-2 pattern applies."""

    pattern: str | None = None
    single_digits: bool = False
    is_nfc: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False


_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"

_GPT2: Final = _Split()
_DIGITS: Final = _Split(single_digits=True)
_LLAMA3: Final = _Split(
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    ignores_merges=True,
    adds_bos=True,
)
_QWEN2: Final = _Split(
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}", is_nfc=True
)
_TEKKEN: Final = _Split(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
    ignores_merges=True,
    adds_bos=True,
)
# Names of `tokenizer.ggml.pre`. A wrong split gives wrong tokens without any error, so an unknown name is refused.
_SPLITS: Final[Mapping[str, _Split]] = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """The tokens of one file by id, and the ids that mean something; `ends` has the file's own end token first."""

    tokens: list[str]
    kinds: list[int]
    bos: int | None
    ends: tuple[int, ...]
    pad: int | None
    unknown: int | None


def read_vocabulary(header: GgufHeader) -> GgufVocabulary:
    """The vocabulary of a file; raises `ModelLoadError` for another tokenizer kind than `gpt2` and `llama`."""
    kind = header.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ModelLoadError(
            f"{header.path} cannot be converted: its tokenizer is of kind {kind}, only gpt2 and llama can be."
        )
    is_sentencepiece = kind == "llama"
    tokens = header.texts("tokenizer.ggml.tokens")
    ids = {
        name: _token_id(header, name, default if is_sentencepiece else None, len(tokens))
        for name, default in (("unknown", 0), ("bos", 1), ("eos", 2), ("eot", None), ("eom", None), ("padding", None))
    }
    kinds = _kinds(header, tokens, {ids["bos"], ids["eos"], ids["eot"], ids["eom"]})
    ends = [ids[name] for name in ("eos", "eot", "eom")]
    ends += [i for i, token in enumerate(tokens) if token in _END_TEXTS and kinds[i] in (_CONTROL, _USER_DEFINED)]
    unique_ends = tuple(dict.fromkeys(end for end in ends if end is not None))
    return GgufVocabulary(tokens, kinds, ids["bos"], unique_ends, ids["padding"], ids["unknown"])


def write_tokenizer(header: GgufHeader, vocabulary: GgufVocabulary, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    if header.text("tokenizer.ggml.model") == "gpt2":
        tokenizer, adds_bos = _byte_level(header, vocabulary)
    else:
        tokenizer, adds_bos = _sentencepiece(header, vocabulary), True
    added: list[AddedToken] = []
    for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True):
        if kind in (_CONTROL, _UNKNOWN):
            added.append(AddedToken(token, special=True, normalized=False))
        elif kind == _USER_DEFINED:
            added.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_tokens(added)
    begins = header.flag("tokenizer.ggml.add_bos_token", adds_bos)
    ends = header.flag("tokenizer.ggml.add_eos_token", False)
    _frame(tokenizer, vocabulary, begins, ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = _tokenizer_config(header, vocabulary)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


def _token_id(header: GgufHeader, name: str, default: int | None, num_tokens: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in header.metadata:
        return default
    token_id = header.integer(key)
    if not 0 <= token_id < num_tokens:
        raise ModelLoadError(f"{header.path} is damaged: {key} is {token_id} and it has {num_tokens} tokens.")
    return token_id


def _kinds(header: GgufHeader, tokens: list[str], special_ids: set[int | None]) -> list[int]:
    """The kind of each token; a file that does not say has no other special tokens than those its metadata names."""
    if "tokenizer.ggml.token_type" not in header.metadata:
        return [_CONTROL if i in special_ids else _NORMAL for i in range(len(tokens))]
    kinds = [int(kind) for kind in header.numbers("tokenizer.ggml.token_type")]
    if len(kinds) != len(tokens):
        raise ModelLoadError(f"{header.path} is damaged: it has {len(tokens)} tokens and {len(kinds)} token types.")
    return kinds


def _byte_level(header: GgufHeader, vocabulary: GgufVocabulary) -> tuple[Tokenizer, bool]:
    """A GPT-2 style tokenizer, and whether its family puts a begin token before the text."""
    name = header.text("tokenizer.ggml.pre", "default")
    if name not in _SPLITS:
        raise ModelLoadError(
            f"{header.path} cannot be converted: its pre-tokenizer is {name}, only {', '.join(_SPLITS)} can be."
        )
    split = _SPLITS[name]
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    merges: list[tuple[str, str]] = []
    for merge in header.texts("tokenizer.ggml.merges"):
        # From the second character on: a token may itself begin with a space.
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or left not in ids or right not in ids or left + right not in ids:
            raise ModelLoadError(f"{header.path} is damaged: its merge {merge!r} names a token it does not have.")
        merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=split.ignores_merges))
    if split.is_nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(_cutters(split)))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, split.adds_bos


def _cutters(split: _Split) -> Iterator[pre_tokenizers.PreTokenizer]:
    if split.single_digits:
        yield pre_tokenizers.Digits(individual_digits=True)
    if split.pattern is not None:
        yield pre_tokenizers.Split(Regex(split.pattern), behavior="isolated")
    yield pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None)


def _sentencepiece(header: GgufHeader, vocabulary: GgufVocabulary) -> Tokenizer:
    """A Llama 2 style tokenizer.

    Source: `LlamaConverter` in https://github.com/huggingface/transformers/blob/main/src/transformers/convert_slow_tokenizer.py
    """
    scores = header.numbers("tokenizer.ggml.scores")
    if len(scores) != len(vocabulary.tokens):
        raise ModelLoadError(
            f"{header.path} is damaged: it has {len(vocabulary.tokens)} tokens and {len(scores)} scores."
        )
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    unknown = None if vocabulary.unknown is None else vocabulary.tokens[vocabulary.unknown]
    has_bytes = all(f"<0x{byte:02X}>" in ids for byte in range(256))
    merges = _merges(ids, vocabulary.kinds, scores)
    model = models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes)
    tokenizer = Tokenizer(model)
    has_prefix = header.flag("tokenizer.ggml.add_space_prefix", True)
    underline = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), underline] if has_prefix else [underline])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    # Exactly these steps: mlx_lm chooses its streaming detokenizer by comparing them.
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if has_prefix else parts)
    return tokenizer


def _merges(ids: Mapping[str, int], kinds: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a normal token together from two others, best score first.

    SentencePiece keeps no merges: it joins whichever neighbours make the token with the highest score.
    """
    normal = {token: i for token, i in ids.items() if kinds[i] == _NORMAL}
    ranked: list[tuple[float, int, int, str, str]] = []
    for token, i in normal.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                ranked.append((-scores[i], normal[left], normal[right], left, right))
    ranked.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in ranked]


def _frame(tokenizer: Tokenizer, vocabulary: GgufVocabulary, begins: bool, ends: bool) -> None:
    """Makes the tokenizer put the begin and the end token around a text."""
    head = [vocabulary.bos] if begins and vocabulary.bos is not None else []
    tail = [vocabulary.ends[0]] if ends and vocabulary.ends else []
    if not head and not tail:
        return
    tokens = vocabulary.tokens
    single = [*(tokens[i] for i in head), "$A", *(tokens[i] for i in tail)]
    second = [*(f"{tokens[i]}:1" for i in head), "$B:1", *(f"{tokens[i]}:1" for i in tail)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, *second], special_tokens=[(tokens[i], i) for i in {*head, *tail}]
    )


def _tokenizer_config(header: GgufHeader, vocabulary: GgufVocabulary) -> dict[str, str | int | bool]:
    roles = {
        "bos_token": vocabulary.bos,
        "eos_token": vocabulary.ends[0] if vocabulary.ends else None,
        "pad_token": vocabulary.pad,
        "unk_token": vocabulary.unknown,
    }
    config: dict[str, str | int | bool] = {
        # The general class: a model's own class would rebuild the tokenizer and leave tokenizer.json aside.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": header.integer("llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    config |= {role: vocabulary.tokens[i] for role, i in roles.items() if i is not None}
    if "tokenizer.chat_template" in header.metadata:
        config["chat_template"] = header.text("tokenizer.chat_template")
    return config
