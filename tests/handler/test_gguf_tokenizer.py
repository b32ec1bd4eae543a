import io
import json
from pathlib import Path

import pytest
import sentencepiece
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, SPMStreamingDetokenizer, TokenizerWrapper
from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers import Tokenizer

from app.handler.gguf_header import read_header
from app.handler.gguf_tokenizer import read_vocabulary, write_tokenizer
from app.handler.samples import sample_folder
from tests.fixtures.gguf_files import Value, byte_level_tokens, write_gguf

SPECIAL = ["<|begin|>", "<|end|>", "<tool>"]
TOKENS = byte_level_tokens("he", "ll", "hell", "hello", "Ġhe", *SPECIAL)
BYTE_LEVEL: dict[str, Value] = {
    "general.architecture": "llama",
    "llama.context_length": 512,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [1] * (len(TOKENS) - 3) + [3, 3, 4],
    "tokenizer.ggml.merges": ["h e", "l l", "he ll", "Ġ he"],
    "tokenizer.ggml.bos_token_id": TOKENS.index("<|begin|>"),
    "tokenizer.ggml.eos_token_id": TOKENS.index("<|end|>"),
}
TEXTS = [
    "Hello, world!",
    "  two  spaces \t\n\n tab\r\n",
    "naïve café – 東京 🚀 👩‍👩‍👧 한국어",
    "def f(x):\n    return x ** 2 != 10_000\n",
    "I'll can't WE'RE don’t",
    "",
    " ",
    "2024-12-31 €13.50",
]


def convert(tmp_path: Path, metadata: dict[str, Value]) -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    header = read_header(write_gguf(tmp_path / "tokenizer.gguf", metadata, {}))
    write_tokenizer(header, read_vocabulary(header), folder)
    return folder


def loaded(tmp_path: Path, metadata: dict[str, Value]) -> TokenizerWrapper:
    return load_tokenizer(convert(tmp_path, metadata))


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    def silent(_: str) -> None: ...

    return load_tokenizer(sample_folder("smollm2-135m-instruct", tmp_path_factory.mktemp("cache"), silent))


# Worked out with a separate byte-pair encoder from the merges in the file: digits alone, then GPT-2's words.
GOLDEN = {
    "Hello, world!": [19556, 28, 905, 17],
    "The capital of France is Paris.": [504, 3575, 282, 4649, 314, 7042, 30],
    "2024 apples cost $13.50": [34, 32, 34, 36, 13855, 1708, 1885, 33, 35, 30, 37, 32],
    "naïve café – 東京 🚀": [3546, 46494, 37366, 816, 17097, 247, 126, 16736, 122, 15107, 244, 218],
    "def f(x):\n    return x ** 2\n": [1604, 275, 24, 104, 727, 472, 1003, 1792, 1903, 216, 34, 198],
    "\t\n  two  spaces ": [197, 3805, 827, 216, 5600, 216],
    "<|im_start|>user\nHi<|im_end|>\n": [1, 4093, 198, 26843, 2, 198],
    "I'll can't WE'RE": [57, 3060, 416, 982, 26587, 23, 3256],
    "x=1;y=22": [104, 45, 33, 43, 105, 45, 34, 34],
    "<|endoftext|><repo_name><empty_output>": [0, 3, 16],
    "<|im_start |>": [44, 108, 306, 79, 3738, 2504, 46],
}


@pytest.mark.parametrize(("text", "ids"), GOLDEN.items(), ids=ascii)
def test_smollm_encodes_as_its_merges_say(smollm: TokenizerWrapper, text: str, ids: list[int]) -> None:
    assert smollm.encode(text) == ids
    assert smollm.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_smollm_gives_back_every_text(smollm: TokenizerWrapper, text: str) -> None:
    assert smollm.decode(smollm.encode(text)) == text


def test_smollm_knows_its_ends_its_template_and_its_streaming_decoder(smollm: TokenizerWrapper) -> None:
    assert (smollm.bos_token, smollm.eos_token, smollm.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert smollm.model_max_length == 8192
    # Special without having a role: <repo_name>.
    assert smollm.decode([3, 28], skip_special_tokens=True) == ","
    assert isinstance(smollm.detokenizer, BPEStreamingDetokenizer)
    prompt = smollm.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_byte_level_tokens_merge_and_frame_as_the_metadata_says(tmp_path: Path) -> None:
    plain = loaded(tmp_path, BYTE_LEVEL)
    framed = loaded(tmp_path, BYTE_LEVEL | {f"tokenizer.ggml.add_{end}_token": True for end in ("bos", "eos")})

    ids = {token: i for i, token in enumerate(TOKENS)}
    inner = [ids["hell"], ids["o"], ids["Ġhe"]]
    assert plain.encode("hello he") == inner
    assert framed.encode("hello he") == [ids["<|begin|>"], *inner, ids["<|end|>"]]
    assert framed.encode("hello he", add_special_tokens=False) == inner


def test_control_tokens_are_special_and_user_defined_ones_are_text(tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, BYTE_LEVEL)

    ids = tokenizer.encode("<|begin|>he<tool> <|end|>")

    assert ids == [TOKENS.index(token) for token in ("<|begin|>", "he", "<tool>", "Ġ", "<|end|>")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "he<tool> "


def test_without_token_types_the_tokens_with_a_role_are_special(tmp_path: Path) -> None:
    metadata = {key: value for key, value in BYTE_LEVEL.items() if key != "tokenizer.ggml.token_type"}

    tokenizer = loaded(tmp_path, metadata)

    assert set(tokenizer.all_special_tokens) == {"<|begin|>", "<|end|>"}
    assert tokenizer.encode("<|end|>") == [TOKENS.index("<|end|>")]


def test_every_token_that_may_end_a_turn_is_an_end(tmp_path: Path) -> None:
    tokens = [*TOKENS, "<|eot_id|>", "<|im_end|>", "odd end", "<|end_of_text|>"]
    metadata = BYTE_LEVEL | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(TOKENS) - 3) + [3, 3, 4, 3, 4, 3, 1],
        "tokenizer.ggml.eot_token_id": tokens.index("odd end"),
    }
    header = read_header(write_gguf(tmp_path / "tokenizer.gguf", metadata, {}))

    ends = [tokens[i] for i in read_vocabulary(header).ends]

    assert ends == ["<|end|>", "odd end", "<|eot_id|>", "<|im_end|>"]


MIXED = "I'LL pay 12345 €/\r\n\n  naïveFOO x"
PIECES = {
    "default": ["I", "'", "LL", " pay", " 12345", " €/", "\r\n\n ", " naïveFOO", " x"],
    "smollm": ["I", "'", "LL", " pay", " ", *"12345", " €/", "\r\n\n ", " naïveFOO", " x"],
    "llama-bpe": ["I", "'LL", " pay", " ", "123", "45", " €/\r\n\n", " ", " naïveFOO", " x"],
    "qwen2": ["I", "'LL", " pay", " ", *"12345", " €/\r\n\n", " ", " naïveFOO", " x"],
    "tekken": ["I", "'LL", " pay", " ", *"12345", " €/\r\n\n", " ", " naïve", "FOO", " x"],
}


@pytest.mark.parametrize(("pre", "pieces"), PIECES.items(), ids=PIECES)
def test_words_are_cut_as_the_family_cuts_them(pre: str, pieces: list[str], tmp_path: Path) -> None:
    folder = convert(tmp_path, BYTE_LEVEL | {"tokenizer.ggml.pre": pre})

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    assert tokenizer.pre_tokenizer is not None
    cut = tokenizer.pre_tokenizer.pre_tokenize_str(MIXED)
    assert [MIXED[begin:end] for _, (begin, end) in cut] == pieces


def test_families_differ_in_more_than_their_words(tmp_path: Path) -> None:
    ids = {token: i for i, token in enumerate(TOKENS)}
    llama = loaded(tmp_path, BYTE_LEVEL | {"tokenizer.ggml.pre": "llama-bpe"})
    # "hello" is a token that no merge makes; this family takes it all the same, and begins every text.
    assert llama.encode("hello") == [ids["<|begin|>"], ids["hello"]]

    qwen = loaded(tmp_path, BYTE_LEVEL | {"tokenizer.ggml.pre": "qwen2"})
    assert qwen.encode("e\u0301") == qwen.encode("é")
    assert qwen.encode("hello") == [ids["hell"], ids["o"]]


@pytest.fixture(scope="module")
def pieces() -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model as Llama 2's, trained on a text of the standard library."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(Path(json.__file__).read_text().splitlines()),
        model_writer=model,
        vocab_size=480,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(pieces: sentencepiece.SentencePieceProcessor) -> dict[str, Value]:
    def kind(i: int) -> int:
        if pieces.IsUnknown(i):
            return 2
        if pieces.IsControl(i):
            return 3
        return 6 if pieces.IsByte(i) else 4 if pieces.IdToPiece(i) == "<tool>" else 1

    ids = range(pieces.GetPieceSize())
    return {
        "general.architecture": "llama",
        "llama.context_length": 512,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.IdToPiece(i) for i in ids],
        "tokenizer.ggml.scores": [pieces.GetScore(i) for i in ids],
        "tokenizer.ggml.token_type": [kind(i) for i in ids],
    }


@pytest.mark.parametrize("text", [*TEXTS, "json.dumps(obj, indent=4)", "encode an object"], ids=ascii)
def test_sentencepiece_encodes_as_sentencepiece_does(
    text: str, pieces: sentencepiece.SentencePieceProcessor, tmp_path: Path
) -> None:
    tokenizer = loaded(tmp_path, sentencepiece_metadata(pieces))

    ids = tokenizer.encode(text)

    assert ids == [pieces.bos_id(), *pieces.EncodeAsIds(text)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_sentencepiece_roles_and_switches(pieces: sentencepiece.SentencePieceProcessor, tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path, sentencepiece_metadata(pieces))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert isinstance(tokenizer.detokenizer, SPMStreamingDetokenizer)
    assert tokenizer.encode("<tool>", add_special_tokens=False) == [pieces.PieceToId("<tool>")]

    switches = {f"tokenizer.ggml.add_{name}": False for name in ("bos_token", "space_prefix")}
    bare = loaded(tmp_path, sentencepiece_metadata(pieces) | switches)
    assert bare.encode("object") == tokenizer.encode(" object")[2:]
    assert bare.decode(bare.encode(" object")) == " object"
