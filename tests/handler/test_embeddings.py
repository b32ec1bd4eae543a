import random
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from app.core.events import Embedded, Event, Failed
from app.core.frames import ModelInfo
from app.core.requests import EmbeddingRequest
from app.errors import ContextLengthExceeded, InvalidRequest, ModelLoadError
from app.handler.embedding_line import PassSize, PreparedEmbedding
from app.handler.embeddings import EmbeddingsHandler
from app.handler.open import open_handler
from app.handler.source import resolve
from app.settings import ModelSpec
from tests.fixtures import tiny_bert, tiny_lm
from tests.fixtures.driving import run
from tests.fixtures.numpy_bert import NumpyBert
from tests.fixtures.tiny_bert import CONTEXT, VOCABULARY, WIDTH, WORDS, Shape

SAME = 1e-5
# Of a forward pass, rows times the longest row: it is given here, so that the speed of this machine changes nothing.
PASS_TOKENS = 2048
# The word that has no number for a vector in the model that `broken` writes.
BROKEN = "fox"


class Bench:
    """A loaded handler and what each request was told."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.events: dict[int, list[Event]] = {}
        spec = ModelSpec.model_validate({"model_path": str(folder), **settings})
        self.handler = EmbeddingsHandler(folder, spec, self._emit)
        self.info: ModelInfo = self.handler.load()
        self.handler._pass_size = PassSize(PASS_TOKENS, PASS_TOKENS)

    def _emit(self, request_id: int, event: Event) -> None:
        self.events.setdefault(request_id, []).append(event)

    def submit(self, request_id: int, inputs: Sequence[str | list[int]], dimensions: int | None = None) -> None:
        prepared = self.handler.prepare(EmbeddingRequest(list(inputs), dimensions))
        self.handler.submit(request_id, prepared)

    def run(self) -> int:
        """To the end, after which nothing is left; gives the number of turns."""
        num_turns = run(self.handler.turn)
        assert len(self.handler._line) == 0
        return num_turns

    def embed(self, inputs: Sequence[str | list[int]], dimensions: int | None = None) -> NDArray[np.float32]:
        """The vectors of one request that has the handler for itself."""
        self.submit(-1, inputs, dimensions)
        self.run()
        vectors = self.vectors(-1)
        del self.events[-1]
        return vectors

    def embedded(self, request_id: int) -> Embedded:
        """The only event of a request that has to have gone well."""
        (event,) = self.events[request_id]
        assert isinstance(event, Embedded)
        return event

    def vectors(self, request_id: int) -> NDArray[np.float32]:
        return np.array([np.frombuffer(vector, "<f4") for vector in self.embedded(request_id).vectors])

    def failure(self, request_id: int) -> Failed:
        """The only event of a request that has to have failed."""
        (event,) = self.events[request_id]
        assert isinstance(event, Failed)
        return event

    def refusal(self, inputs: Sequence[str | list[int]], dimensions: int | None = None) -> InvalidRequest:
        with pytest.raises(InvalidRequest) as caught:
            self.handler.prepare(EmbeddingRequest(list(inputs), dimensions))
        return caught.value


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a tiny model of the shape that the arguments say."""
    return lambda **shape: tiny_bert.write(tmp_path / "bert", Shape(**shape))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.write(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Bench:
    return Bench(folder)


@pytest.fixture
def bench(loaded: Bench) -> Bench:
    """The tiny BERT, for tests that leave nothing behind in it."""
    assert len(loaded.handler._line) == 0
    loaded.events.clear()
    return loaded


@pytest.fixture(scope="module")
def minilm() -> Path:
    return resolve("all-minilm-l6-v2", Path("unused"), print)


def text_of(num_tokens: int, seed: int = 0) -> str:
    """A text of that many tokens, the two special ones among them."""
    return " ".join(random.Random(seed).choices(WORDS, k=num_tokens - 2))


def test_minilm_vectors_are_those_computed_by_hand(minilm: Path) -> None:
    # The last is longer than the 128 tokens that the sample's tokenizer.json would cut it at.
    texts = ["hello world", "Die Katze schläft.", "🙂 naïve café 東京", "x", "a red fox " * 45]
    bench, reference = Bench(minilm), NumpyBert(minilm)
    assert reference.tokenize("hello world") == [101, 7592, 2088, 102]
    tokens = [reference.tokenize(text) for text in texts]
    bench.submit(0, texts)
    bench.run()
    np.testing.assert_allclose(bench.vectors(0), [reference.embed(one) for one in tokens], atol=SAME)
    assert bench.embedded(0).usage.prompt_tokens == sum(map(len, tokens)) > 137
    assert (bench.info.kind, bench.info.architecture, bench.info.context_length) == ("embeddings", "bert", 512)


def test_minilm_knows_what_is_alike(minilm: Path) -> None:
    bench = Bench(minilm, warmup=False)
    cat, kitten, tax = bench.embed(["A cat sat on the mat.", "A kitten is sitting on a rug.", "Income tax is due."])
    assert cat @ kitten > 0.4 > 0.2 > cat @ tax


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "max_tokens"])
def test_pooling_is_what_the_models_files_say(write: Write, pooling: str) -> None:
    folder = write(pooling=pooling)
    bench, reference = Bench(folder), NumpyBert(folder)
    texts = ["the quick brown fox", "one"]
    expected = [reference.embed(reference.tokenize(text)) for text in texts]
    np.testing.assert_allclose(bench.embed(texts), expected, atol=SAME)


def test_without_a_pooling_file_bert_pools_by_the_mean(write: Write, bench: Bench) -> None:
    texts = ["the quick brown fox", "one"]
    np.testing.assert_allclose(Bench(write(pooling=None)).embed(texts), bench.embed(texts), atol=SAME)


def test_roberta_positions_begin_after_the_padding_token(write: Write) -> None:
    folder = write(model_type="xlm-roberta", padding=1)
    bench, reference = Bench(folder), NumpyBert(folder)
    texts = [text_of(CONTEXT), "one", "fox two"]
    expected = [reference.embed(reference.tokenize(text)) for text in texts]
    np.testing.assert_allclose(bench.embed(texts), expected, atol=SAME)
    assert bench.info.context_length == CONTEXT
    assert bench.refusal([text_of(CONTEXT + 1)]).param == "input[0]"


def test_vectors_are_little_endian_float32_of_length_one(bench: Bench) -> None:
    vectors = bench.embed(["the fox", "the dog"])
    assert vectors.shape == (2, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_tokens_are_taken_as_they_are(bench: Bench, folder: Path) -> None:
    reference = NumpyBert(folder)
    tokens = reference.tokenize("the fox")
    as_text, as_tokens, bare = bench.embed(["the fox", tokens, tokens[1:-1]])
    np.testing.assert_allclose(as_text, as_tokens, atol=SAME)
    np.testing.assert_allclose(bare, reference.embed(tokens[1:-1]), atol=SAME)
    assert np.abs(bare - as_text).max() > 0.01


def test_neighbours_do_not_change_a_vector(bench: Bench) -> None:
    draw = random.Random(3)
    texts = {number: [text_of(draw.randint(3, CONTEXT), seed) for seed in range(number)] for number in range(1, 12)}
    for number, inputs in texts.items():
        bench.submit(number, inputs)
    bench.run()
    for number, inputs in texts.items():
        alone = np.concatenate([bench.embed([text]) for text in inputs])
        np.testing.assert_allclose(bench.vectors(number), alone, atol=SAME)


def test_requests_of_one_length_share_a_pass(bench: Bench) -> None:
    for number in range(32):
        bench.submit(number, [text_of(12, number), text_of(3, number)])
    assert bench.run() == 1
    assert all(bench.vectors(number).shape == (2, WIDTH) for number in range(32))


@pytest.mark.parametrize(("num_tokens", "num_inputs"), [(8, 2048), (60, 340), (65, 40), (CONTEXT, 42)])
def test_passes_are_full_and_bounded(bench: Bench, num_tokens: int, num_inputs: int) -> None:
    bench.submit(0, [text_of(num_tokens, seed % 7) for seed in range(num_inputs)])
    rows_per_pass = PASS_TOKENS // num_tokens
    assert bench.run() == -(-num_inputs // rows_per_pass) > 1
    assert len(bench.embedded(0).vectors) == num_inputs


def test_a_long_text_does_not_widen_a_pass_of_short_ones(bench: Bench) -> None:
    bench.submit(0, [text_of(CONTEXT), *(text_of(8, seed) for seed in range(256))])
    assert bench.run() == 2


def test_inputs_of_like_length_are_put_together(bench: Bench) -> None:
    # In the order of arrival the long ones would widen every pass: four passes of 32 rows.
    for number in range(128):
        bench.submit(number, [text_of(64 if number % 4 == 0 else 8, number)])
    assert bench.run() == 2


def test_a_large_request_does_not_hold_up_a_small_one(bench: Bench) -> None:
    bench.submit(0, [text_of(64, seed % 7) for seed in range(600)])
    bench.handler.turn()
    bench.submit(1, [text_of(5)])
    bench.submit(2, [text_of(CONTEXT)])
    for _ in range(3):
        bench.handler.turn()
    assert sorted(bench.events) == [1, 2]
    bench.run()
    assert len(bench.embedded(0).vectors) == 600


def test_large_requests_go_on_together(bench: Bench) -> None:
    for number in range(4):
        bench.submit(number, [text_of(64, number)] * 80)
    # Of the 32 rows of a pass each has eight.
    for num_left in (72, 64, 56):
        bench.handler.turn()
        assert [sum(map(len, one.left.values())) for one in bench.handler._line._requests.values()] == [num_left] * 4
    assert not bench.events
    assert bench.run() == 7


def test_the_size_of_a_pass_follows_the_time_it_takes() -> None:
    size = PassSize(least=256, most=1024)
    sizes: list[int] = []
    # Fast; fast; fast, at the most; as wanted; slow; slow; slow, at the least; fast, but not full.
    for num_tokens, elapsed_s in [
        *((256, 0.01), (500, 0.02), (1024, 0.04), (1000, 0.1)),
        *((1024, 0.3), (512, 0.4), (256, 9.0), (100, 0.001)),
    ]:
        size.note(num_tokens, elapsed_s)
        sizes.append(size.num_tokens)
    assert sizes == [512, 1024, 1024, 1024, 512, 256, 256, 256]


def test_the_speed_of_the_model_is_measured(bench: Bench) -> None:
    bench.handler._pass_size = PassSize(1, 4096)
    bench.submit(0, [[4]] * 4096)
    bench.run()
    # The tiny model takes milliseconds for it.
    assert bench.handler._pass_size.num_tokens > 1
    bench.handler._pass_size = PassSize(PASS_TOKENS, PASS_TOKENS)


def test_a_cancelled_request_is_never_heard_of_again(bench: Bench) -> None:
    bench.submit(1, [text_of(64, seed % 7) for seed in range(500)])
    bench.submit(2, [text_of(64, seed % 7) for seed in range(40)])
    bench.handler.turn()
    bench.handler.cancel(1)
    bench.handler.cancel(77)
    assert bench.run() <= 2
    assert list(bench.events) == [2]
    assert not bench.handler.turn()


def test_a_failing_pass_fails_only_its_requests(bench: Bench) -> None:
    # Such a token can only come past `prepare`; it fits no int32.
    bench.handler.submit(1, PreparedEmbedding([[2**40, 1, 1]]))
    bench.submit(2, [text_of(10)])
    bench.submit(3, [text_of(CONTEXT)])
    bench.run()
    assert bench.failure(1).error == bench.failure(2).error == "InternalError"
    assert bench.vectors(3).shape == (1, WIDTH)
    assert bench.embed(["the fox"]).shape == (1, WIDTH)


def test_a_vector_that_is_no_number_fails_its_request_alone(write: Write) -> None:
    bench = Bench(write(broken_token=VOCABULARY.index(BROKEN)))
    bench.submit(1, ["one", f"the {BROKEN}", text_of(CONTEXT).replace(BROKEN, "dog")])
    bench.submit(2, ["two", "three"])
    bench.run()
    assert bench.failure(1).error == "InternalError"
    assert np.isfinite(bench.vectors(2)).all()


def test_dimensions_cut_and_renormalise(bench: Bench, folder: Path) -> None:
    reference = NumpyBert(folder)
    expected = reference.embed(reference.tokenize("the fox"), dimensions=5)
    np.testing.assert_allclose(bench.embed(["the fox"], dimensions=5), [expected], atol=SAME)
    np.testing.assert_array_equal(bench.embed(["the fox"], dimensions=WIDTH), bench.embed(["the fox"]))


def test_more_dimensions_than_the_model_has_are_refused(bench: Bench) -> None:
    error = bench.refusal(["the fox"], dimensions=WIDTH + 1)
    assert error.param == "dimensions"
    assert str(WIDTH + 1) in error.message
    assert str(WIDTH) in error.message


@pytest.mark.parametrize(
    ("inputs", "place", "said"),
    [
        ([""], 0, "is empty"),
        (["the fox", ""], 1, "is empty"),
        (["the fox", [2, 3], []], 2, "is empty"),
        ([[0, len(VOCABULARY)]], 0, f"0 to {len(VOCABULARY) - 1}"),
        ([[2, -1]], 0, "-1"),
    ],
)
def test_an_input_that_cannot_be_embedded_is_named(
    bench: Bench, inputs: list[str | list[int]], place: int, said: str
) -> None:
    error = bench.refusal(inputs)
    assert error.param == f"input[{place}]"
    assert said in error.message


def test_an_input_over_the_context_is_refused_with_the_counts(bench: Bench) -> None:
    bench.submit(0, [text_of(CONTEXT), [4] * CONTEXT])
    assert bench.run() == 1
    for too_long in (text_of(CONTEXT + 1), [4] * (CONTEXT + 1)):
        error = bench.refusal(["the fox", too_long])
        assert isinstance(error, ContextLengthExceeded)
        assert error.param == "input[1]"
        assert f"{CONTEXT} tokens" in error.message
        assert f"has {CONTEXT + 1}." in error.message


def test_a_text_of_megabytes_is_refused_by_its_beginning(bench: Bench) -> None:
    error = bench.refusal(["the fox " * 500_000])
    assert isinstance(error, ContextLengthExceeded)
    # Of its million tokens only so many were counted as its first 3136 characters have.
    assert "at least 686" in error.message


def test_many_characters_of_few_tokens_are_no_reason_to_refuse(bench: Bench) -> None:
    bench.submit(0, ["the" + " " * 20_000 + "fox", "x" * 20_000])
    bench.run()
    # [CLS] the fox [SEP], and [CLS] [UNK] [SEP]: WordPiece takes no word of more than a hundred characters apart.
    assert bench.embedded(0).usage.prompt_tokens == 4 + 3


def test_the_settings_can_lower_the_context(folder: Path) -> None:
    bench = Bench(folder, context_length=8)
    assert bench.info.context_length == 8
    assert bench.embed([text_of(8)]).shape == (1, WIDTH)
    assert "8 tokens" in bench.refusal([text_of(9)]).message


def test_half_precision_weights_embed_the_same(folder: Path, write: Write, bench: Bench) -> None:
    half = write()
    weights: dict[str, mx.array] = {}
    for name, value in mx.load(str(half / "model.safetensors")).items():  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
        weights[name] = value.astype(mx.float16)
    mx.save_safetensors(str(half / "model.safetensors"), weights, metadata={"format": "mlx"})
    np.testing.assert_allclose(Bench(half).embed(["the quick fox"]), bench.embed(["the quick fox"]), atol=5e-3)


def load_error(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        Bench(folder)
    assert str(folder) in caught.value.message
    return caught.value.message


def test_a_folder_without_weights_is_not_loaded(write: Write) -> None:
    folder = write()
    (folder / "model.safetensors").unlink()
    assert "No safetensors found" in load_error(folder)


def test_a_folder_without_a_tokenizer_is_not_loaded(write: Write) -> None:
    folder = write()
    for file in folder.glob("tokenizer*.json"):
        file.unlink()
    assert "no tokenizer" in load_error(folder)


def test_a_pooling_that_the_library_does_not_have_is_found_at_loading(write: Write) -> None:
    assert "weightedmean" in load_error(write(pooling="weightedmean_tokens"))


def test_a_language_model_gives_no_vectors(tmp_path: Path) -> None:
    assert "does not give one vector per text" in load_error(tiny_lm.llama(tmp_path / "llama"))


def test_the_folder_is_known_as_an_embedding_model(folder: Path, tmp_path: Path) -> None:
    spec = ModelSpec(model_path=str(folder))
    handler = open_handler(spec, tmp_path, lambda _id, _event: None, print)
    assert isinstance(handler, EmbeddingsHandler)
