"""POST /v1/completions through OpenAI's own client.

It is told to accept nothing but what OpenAI documents, except where OpenAI's own server does not keep to that: a
streamed chunk's finish_reason is null until the last one, and nothing predicts the first token of an echo.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI, Stream
from openai.types import Completion

from tests.e2e.processes import ServerProcess
from tests.e2e.wire import Call

GOLDEN = Path(__file__).parent / "golden"
PATH = "/v1/completions"
PROMPT = "the quick brown fox"
# The tiny model's end token is kept away: its answers are as long as they may be.
NO_END: dict[str, Any] = {"logit_bias": {"2": -100}}
GREEDY: dict[str, Any] = {"model": "x", "temperature": 0, "max_tokens": 8, **NO_END}


def greedy(**fields: Any) -> dict[str, Any]:
    return GREEDY | fields


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def lenient(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def texts(reply: Completion) -> list[str]:
    return [choice.text for choice in reply.choices]


def streamed(chunks: Stream[Completion]) -> dict[int, str]:
    """The text of each choice; each has one reason, on its last chunk."""
    found: dict[int, str] = {}
    ended: set[int] = set()
    for chunk in chunks:
        for choice in chunk.choices:
            assert choice.index not in ended
            found[choice.index] = found.get(choice.index, "") + choice.text
            if choice.finish_reason:
                ended.add(choice.index)
    assert ended == set(found)
    return found


class TestReply:
    def test_has_sixteen_tokens_unless_told_otherwise(self, client: OpenAI) -> None:
        reply = client.completions.create(model="some/name", prompt=PROMPT, user="me", **NO_END)
        assert reply.object == "text_completion"
        assert re.fullmatch(r"cmpl-[0-9a-f]{28}", reply.id)
        assert reply.model == "some/name"
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 16
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + 16
        (choice,) = reply.choices
        assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)

    def test_of_every_form_of_prompt(self, client: OpenAI, server: ServerProcess) -> None:
        other = "a model answers"
        tokens = [server.post({"prompt": text}, "/v1/tokenize").json()["tokens"] for text in (PROMPT, other)]
        one, two = (texts(client.completions.create(prompt=text, **GREEDY))[0] for text in (PROMPT, other))
        assert texts(client.completions.create(prompt=[PROMPT, other], **GREEDY)) == [one, two]
        assert texts(client.completions.create(prompt=tokens[1], **GREEDY)) == [two]
        assert texts(client.completions.create(prompt=tokens, **GREEDY)) == [one, two]

    def test_of_several_choices(self, client: OpenAI) -> None:
        asked = greedy(temperature=1, seed=7)
        reply = client.completions.create(prompt=[PROMPT, "hello"], n=3, **asked)
        assert [choice.index for choice in reply.choices] == list(range(6))
        assert len(set(texts(reply))) > 2
        alone = [client.completions.create(prompt=prompt, n=3, **asked) for prompt in (PROMPT, "hello")]
        assert texts(reply) == texts(alone[0]) + texts(alone[1])
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 48

    def test_of_the_best(self, client: OpenAI) -> None:
        asked = greedy(temperature=1, seed=7)
        everything = client.completions.create(prompt=PROMPT, n=5, logprobs=0, **asked)
        best = client.completions.create(prompt=PROMPT, n=2, best_of=5, **asked)

        def mean(choice: Any) -> float:
            return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

        assert texts(best) == [choice.text for choice in sorted(everything.choices, key=mean, reverse=True)[:2]]
        assert [choice.logprobs for choice in best.choices] == [None, None]
        assert best.usage is not None
        assert best.usage.completion_tokens == 40

    def test_ends_at_a_stop_string(self, client: OpenAI) -> None:
        (whole,) = texts(client.completions.create(prompt=PROMPT, **greedy(max_tokens=20)))
        stop = whole[5:8]
        reply = client.completions.create(prompt=PROMPT, stop=["never said", stop], **greedy(max_tokens=20))
        assert texts(reply) == [whole[: whole.index(stop)]]
        assert reply.choices[0].finish_reason == "stop"

    def test_keeps_to_a_form(self, client: OpenAI) -> None:
        asked = greedy(temperature=1, max_tokens=30)
        reply = client.completions.create(prompt=PROMPT, extra_body={"guided_regex": "[ab]{3}-[0-9]{2}"}, **asked)
        assert re.fullmatch("[ab]{3}-[0-9]{2}", reply.choices[0].text)
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        reply = client.completions.create(prompt=PROMPT, extra_body={"response_format": form}, **asked)
        assert re.match(r'\{\s*"a"', reply.choices[0].text)

    def test_is_drawn_as_asked(self, client: OpenAI) -> None:
        """Each field that says how: with it the same request says something else, and the same again."""
        base: dict[str, Any] = {"model": "x", "prompt": PROMPT, "max_tokens": 30, "temperature": 1, "seed": 3}
        base |= NO_END
        plain = texts(client.completions.create(**base))
        assert texts(client.completions.create(**base)) == plain
        fields: list[dict[str, Any]] = [
            {"seed": 4},
            {"top_p": 0.1},
            {"presence_penalty": 2},
            {"frequency_penalty": 2},
            {"logit_bias": {"2": -100, "70": 100}},
            {"extra_body": {"top_k": 1}},
            {"extra_body": {"min_p": 0.9}},
            {"extra_body": {"repetition_penalty": 3}},
        ]
        for changed in fields:
            assert texts(client.completions.create(**base | changed)) != plain, changed

    def test_without_the_prefix(self, server: ServerProcess) -> None:
        assert server.post({"prompt": PROMPT, "max_tokens": 1}, "/completions").json()["object"] == "text_completion"


class TestLogprobs:
    def test_of_an_answer(self, client: OpenAI) -> None:
        reply = client.completions.create(prompt=PROMPT, logprobs=3, **greedy(max_tokens=20))
        found = reply.choices[0].logprobs
        assert found is not None
        assert found.tokens is not None
        assert found.token_logprobs is not None
        assert found.top_logprobs is not None
        assert found.text_offset is not None
        assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset) == 20
        for token, value, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
            assert 2 <= len(top) <= 3, top
            # The likeliest is taken.
            assert top[token] == value == max(top.values()) <= 0
        starts = [*found.text_offset, len(reply.choices[0].text)]
        assert starts[0] == 0
        assert starts == sorted(starts)
        for token, start in zip(found.tokens, found.text_offset, strict=True):
            assert token.startswith("bytes:") or reply.choices[0].text.startswith(token, start)

    def test_of_a_prompt(self, lenient: OpenAI, server: ServerProcess) -> None:
        """As lm-eval asks for them: how likely each token of a text is."""
        pieces = server.post({"prompt": PROMPT, "return_token_strs": True}, "/v1/tokenize").json()
        asked = greedy(max_tokens=1)
        reply = lenient.completions.create(prompt=pieces["tokens"], echo=True, logprobs=1, **asked)
        choice = reply.choices[0]
        found: Any = choice.logprobs
        spelled = [piece.replace("\u0120", " ") for piece in pieces["token_strs"]]
        assert choice.text.startswith(PROMPT)
        assert found.tokens[:-1] == spelled
        assert found.text_offset == [0, *accumulate(map(len, spelled))]
        assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
        assert all(value < 0 for value in found.token_logprobs[1:])
        for token, value, top in zip(found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], strict=True):
            assert top[token] == value <= max(top.values())
            assert len(top) == (1 if value == max(top.values()) else 2)
        # A beginning is as likely whatever follows it, and whether it is kept by now or not.
        for count in range(2, len(spelled) + 1):
            shorter = lenient.completions.create(
                prompt=pieces["tokens"][:count], echo=True, logprobs=1, **greedy(max_tokens=0)
            )
            beginning: Any = shorter.choices[0].logprobs
            assert beginning.token_logprobs[1:] == pytest.approx(found.token_logprobs[1:count], abs=1e-4)

    def test_of_a_prompt_alone(self, lenient: OpenAI) -> None:
        reply = lenient.completions.create(
            model="x", prompt=[PROMPT, "hello"], echo=True, logprobs=0, max_tokens=0, n=2
        )
        assert texts(reply) == [PROMPT, PROMPT, "hello", "hello"]
        assert reply.usage is not None
        assert reply.usage.completion_tokens == 0
        for choice in reply.choices:
            assert choice.finish_reason == "length"
            assert choice.logprobs is not None
            assert "".join(choice.logprobs.tokens or []) == choice.text

    def test_an_echo_without_them(self, client: OpenAI) -> None:
        (answer,) = texts(client.completions.create(prompt=PROMPT, **GREEDY))
        assert texts(client.completions.create(prompt=PROMPT, echo=True, **GREEDY)) == [PROMPT + answer]


class TestStream:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"prompt": [PROMPT, "hello", "a model"], "n": 2, "temperature": 1, "seed": 5},
            {"echo": True},
            {"echo": True, "max_tokens": 0},
            {"stop": "e", "max_tokens": 30},
        ],
    )
    def test_says_what_the_reply_says(self, client: OpenAI, lenient: OpenAI, fields: dict[str, Any]) -> None:
        asked: dict[str, Any] = {"prompt": PROMPT, **GREEDY, **fields}
        whole = client.completions.create(**asked)
        assert streamed(lenient.completions.create(stream=True, **asked)) == dict(enumerate(texts(whole)))

    def test_tells_the_same_logprobs(self, lenient: OpenAI) -> None:
        asked: dict[str, Any] = {"prompt": ["the quick " * 40, "hello"], "echo": True, "logprobs": 2, **GREEDY}
        whole = lenient.completions.create(**asked)
        chunks = list(lenient.completions.create(stream=True, **asked))
        for choice in whole.choices:
            pieces: list[Any] = [
                piece.logprobs
                for chunk in chunks
                for piece in chunk.choices
                if piece.index == choice.index and piece.logprobs
            ]
            expected: Any = choice.logprobs
            for name in ("tokens", "text_offset"):
                assert [one for piece in pieces for one in getattr(piece, name)] == getattr(expected, name)
            told = [one for piece in pieces for one in piece.token_logprobs]
            assert told[1:] == pytest.approx(expected.token_logprobs[1:], abs=1e-4)

    def test_usage_comes_last_if_asked_for(self, lenient: OpenAI) -> None:
        asked: dict[str, Any] = {"prompt": [PROMPT, "hello"], "stream": True, **GREEDY}
        *chunks, last = lenient.completions.create(stream_options={"include_usage": True}, **asked)
        assert last.choices == []
        assert last.usage is not None
        assert last.usage.completion_tokens == 16
        assert all(chunk.usage is None for chunk in chunks)
        assert all(chunk.usage is None and chunk.choices for chunk in lenient.completions.create(**asked))

    def test_is_the_golden_transcript(self, server: ServerProcess) -> None:
        """Byte for byte, but for ids and times. The text does not depend on the weights: one token is wanted."""
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 2, "logit_bias": {"70": 100}, "echo": True}
        with Call(server, body | {"stream": True, "stream_options": {"include_usage": True}}, PATH) as call:
            transcript = call.response.read().decode()
        transcript = re.sub(r"cmpl-[0-9a-f]{28}", "cmpl-ID", transcript)
        transcript = re.sub(r'"cached_tokens":\d+', '"cached_tokens":COUNT', transcript)
        transcript = re.sub(r'"created":\d{10}', '"created":TIME', transcript)
        assert transcript == (GOLDEN / "completions_stream.txt").read_text("utf-8")


class TestMany:
    async def test_lists_at_the_same_time(self, async_client: AsyncOpenAI) -> None:
        """More prompts than there are slots: each answer is what it is alone."""
        lists = [[f"list {number} item {item}" for item in range(12)] for number in range(5)]
        replies = await asyncio.gather(*(async_client.completions.create(prompt=one, **GREEDY) for one in lists))
        for prompts, reply in zip(lists, replies, strict=True):
            assert [choice.index for choice in reply.choices] == list(range(12))
            alone = await async_client.completions.create(prompt=prompts[7], **GREEDY)
            assert texts(alone) == [reply.choices[7].text]

    @pytest.mark.parametrize("stream", [True, False])
    def test_who_hangs_up_ends_all(self, server: ServerProcess, stream: bool) -> None:
        body = {
            "prompt": [f"number {number}" for number in range(40)],
            "max_tokens": 100_000,
            "stream": stream,
            **NO_END,
        }
        with Call(server, body, PATH) as call:
            # All slots, and nobody in the line before others.
            server.wait_for_load(active=16, waiting=0)
            call.hang_up()
            server.wait_until_idle()
        assert server.post({"prompt": PROMPT, "max_tokens": 1}, PATH).status_code == 200

    def test_one_that_is_wrong_ends_all(self, server: ServerProcess) -> None:
        body = {"prompt": [[5, 6], [10**6], [7]], "max_tokens": 100_000, **NO_END}
        reply = server.post(body, PATH)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "prompt"
        server.wait_until_idle()

    def test_a_clients_own_limit_holds_for_all(self, server: ServerProcess) -> None:
        body = {"prompt": ["one", "two"], "max_tokens": 100_000, "timeout": 0.2, **NO_END}
        reply = server.post(body, PATH)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "request_timeout")
        server.wait_until_idle()


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "param", "code"),
        [
            ({}, "prompt", "missing_required_parameter"),
            ({"prompt": None}, "prompt", "invalid_value"),
            ({"prompt": []}, "prompt", "invalid_value"),
            ({"prompt": ""}, "prompt", None),
            ({"prompt": [[]]}, "prompt[0]", "invalid_value"),
            ({"prompt": ["a", 1]}, "prompt[1]", "invalid_value"),
            ({"prompt": [1, "a"]}, "prompt[1]", "invalid_value"),
            ({"prompt": [1, -1]}, "prompt[1]", "invalid_value"),
            ({"prompt": ["a"] * 257}, "prompt", "invalid_value"),
            ({"prompt": {"text": "a"}}, "prompt", "invalid_value"),
            ({"prompt": "a", "suffix": "b"}, "suffix", None),
            ({"prompt": "a", "suffix": 1}, "suffix", "invalid_value"),
            ({"prompt": "a", "logprobs": 21}, "logprobs", "invalid_value"),
            ({"prompt": "a", "logprobs": True}, "logprobs", "invalid_value"),
            ({"prompt": "a", "max_tokens": 0}, "max_tokens", None),
            ({"prompt": "a", "max_tokens": -1}, "max_tokens", "invalid_value"),
            ({"prompt": "a", "n": 3, "best_of": 2}, "best_of", None),
            ({"prompt": "a", "best_of": 2, "stream": True}, "best_of", None),
            ({"prompt": "a", "n": 33}, "n", "invalid_value"),
            ({"prompt": "a", "temperature": 3}, "temperature", "invalid_value"),
            ({"prompt": "a", "stop": ""}, "stop", None),
            ({"prompt": "a", "use_beam_search": True}, "use_beam_search", "unsupported_parameter"),
            ({"prompt": "a", "prompt_logprobs": 1}, "prompt_logprobs", "unsupported_parameter"),
            ({"prompt": "a", "min_tokens": 3}, "min_tokens", "unsupported_parameter"),
            ({"prompt": "a", "stop_token_ids": [3]}, "stop_token_ids", "unsupported_parameter"),
            ({"prompt": "a", "ignore_eos": True}, "ignore_eos", "unsupported_parameter"),
        ],
    )
    def test_name_the_field(self, server: ServerProcess, fields: dict[str, Any], param: str, code: str | None) -> None:
        reply = server.post(fields, PATH)
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)

    def test_are_the_clients_own_class(self, client: OpenAI) -> None:
        with pytest.raises(BadRequestError) as caught:
            client.completions.create(prompt="word " * 200_000, **GREEDY)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "prompt"

    def test_what_asks_for_nothing_is_no_refusal(self, server: ServerProcess) -> None:
        body = {"prompt": "a", "max_tokens": 1, "use_beam_search": False, "min_tokens": 0, "stop_token_ids": []}
        assert server.post(body | {"ignore_eos": False, "suffix": "", "unknown": 1}, PATH).status_code == 200
