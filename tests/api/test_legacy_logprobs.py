from hypothesis import given
from hypothesis import strategies as st

from app.api.completions.logprobs import LegacyLogprobs, LogprobsWriter
from app.core.events import Candidate, EchoDelta, PromptToken, TextDelta, TokenLogprob

WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3), max_size=8)


def prompt_tokens(*texts: str | bytes) -> list[PromptToken]:
    spelled = [text.encode() if isinstance(text, str) else text for text in texts]
    return [PromptToken(text, -1.0 if index else None, []) for index, text in enumerate(spelled)]


def tokens(*texts: str | bytes) -> list[TokenLogprob]:
    return [TokenLogprob(text.encode() if isinstance(text, str) else text, -2.0, []) for text in texts]


def offsets(*events: EchoDelta | TextDelta) -> list[int]:
    writer = LogprobsWriter()
    return [
        offset for event in events for offset in (writer.write(event) or LegacyLogprobs([], [], [], [])).text_offset
    ]


@given(WORDS, WORDS)
def test_every_token_begins_where_its_offset_says(prompt: list[str], answer: list[str]) -> None:
    text = "".join(prompt + answer)
    starts = offsets(
        EchoDelta("".join(prompt), 0, prompt_tokens(*prompt)),
        *(TextDelta(word, 0, tokens(word)) for word in answer),
    )
    ends = [*starts[1:], len(text)]
    assert [text[start:end] for start, end in zip(starts, ends, strict=bool(starts))] == prompt + answer


def test_an_answer_alone_begins_at_zero() -> None:
    assert offsets(TextDelta("ab", 0, tokens("a", "b")), TextDelta("c", 0, tokens("c"))) == [0, 1, 2]


def test_a_token_before_the_clients_text_is_no_part_of_it() -> None:
    echo = EchoDelta("one two", 0, prompt_tokens("<s>", " one", " two"))
    assert offsets(echo, TextDelta("!", 0, tokens("!"))) == [0, 0, 3, 7]


def test_parts_of_a_character_begin_where_it_does() -> None:
    smile = "\u263a".encode()
    echo = EchoDelta("a\u263ab", 0, prompt_tokens("a", smile[:1], smile[1:2], smile[2:], "b"))
    answer = TextDelta("\u263a", 0, tokens(smile[:2], smile[2:]))
    assert offsets(echo, answer, TextDelta("c", 0, tokens("c"))) == [0, 1, 1, 1, 2, 3, 3, 4]


def test_a_character_that_never_becomes_complete_is_one_all_the_same() -> None:
    smile = "\u263a".encode()
    assert offsets(TextDelta("", 0, tokens(smile[:1])), TextDelta("\ufffdab", 0, tokens("a", "b"))) == [0, 1, 2]
    assert offsets(TextDelta("\ufffd\u263a", 0, tokens(smile[:2], smile[:2], smile[2:]))) == [0, 1, 1]


def test_text_that_the_tokenizer_has_changed_does_not_move_the_answer() -> None:
    echo = EchoDelta("Caf\u00e9", 0, prompt_tokens("cafe"))
    assert offsets(echo, TextDelta("x", 0, tokens("x"))) == [0, 4]


def test_who_comes_is_among_the_likeliest() -> None:
    top = [Candidate(b"a", -0.1), Candidate(b"\xff", -0.2), Candidate(b"a", -0.3)]
    written = LogprobsWriter().write(TextDelta("x", 0, [TokenLogprob(b"x", -9.0, top), TokenLogprob(b"a", -0.1, top)]))
    assert written is not None
    assert written.tokens == ["x", "a"]
    assert written.top_logprobs == [{"a": -0.1, "bytes:\\xff": -0.2, "x": -9.0}, {"a": -0.1, "bytes:\\xff": -0.2}]
    assert written.token_logprobs == [-9.0, -0.1]


def test_nothing_comes_before_the_first_token_of_a_prompt() -> None:
    written = LogprobsWriter().write(EchoDelta("ab", 0, prompt_tokens("a", "b")))
    assert written == LegacyLogprobs(["a", "b"], [None, -1.0], [None, {"b": -1.0}], [0, 1])


def test_nobody_asked() -> None:
    writer = LogprobsWriter()
    assert writer.write(EchoDelta("a")) is None
    assert writer.write(TextDelta("b")) is None
