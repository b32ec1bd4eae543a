from app.handler.context import num_tokens_at_least


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
