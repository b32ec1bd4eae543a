import pytest

from app.handler.context import context_length, num_tokens_at_least


@pytest.mark.parametrize(
    ("config", "asked", "length"),
    [
        ({"max_position_embeddings": 512}, None, 512),
        ({"max_position_embeddings": 512}, 128, 128),
        ({"max_position_embeddings": 512}, 1024, 512),
        ({"text_config": {"max_position_embeddings": 512}}, None, 512),
        ({"max_position_embeddings": 256, "text_config": {"max_position_embeddings": 512}}, None, 256),
        ({"n_positions": 1024, "model_max_length": 64}, None, 1024),
        ({"max_position_embeddings": None, "seq_length": 2048}, None, 2048),
        ({}, None, 32768),
        ({}, 65536, 65536),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}, None, 512),
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 1}, None, 512),
    ],
)
def test_the_context_is_the_models_or_less(config: dict[str, object], asked: int | None, length: int) -> None:
    assert context_length(config, asked) == length


def num_encoded(text: str, limit: int) -> tuple[int, int]:
    """What a tokenizer by words makes of it: the count that was found, and the characters it was given."""
    given: list[str] = []

    def encode(piece: str) -> list[int]:
        given.append(piece)
        return [0] * len(piece.split())

    return num_tokens_at_least(text, encode, limit), sum(map(len, given))


def test_only_the_beginning_of_a_long_text_is_tokenized() -> None:
    count, num_characters = num_encoded("word " * 1_000_000, limit=1000)
    assert 1000 < count < num_characters < 20_000


def test_a_short_text_is_not_tokenized_twice() -> None:
    assert num_encoded("word " * 2000, limit=1000) == (0, 0)


def test_a_long_text_of_few_tokens_is_left_to_the_tokenizer() -> None:
    assert num_encoded("word" + " " * 1_000_000, limit=1000)[0] == 0
