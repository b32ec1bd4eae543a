import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.messages.encoding import MessagesReply
from app.core.conversation import Message, ToolCall
from tests.fixtures.message_bodies import CACHED, CALL, CALLED, LINE, assistant, messages, result, text, thought, user
from tests.fixtures.recordings import RECORDINGS


class TestMessages:
    def test_a_string_and_a_block_are_the_same(self) -> None:
        for content in ("hello", [text("hello")], [text("hello") | CACHED]):
            assert messages({"role": "user", "content": content}) == [Message("user", "hello")]

    def test_blocks_are_texts_of_their_own(self) -> None:
        assert messages(user(text("one"), text(""), text("two"))) == [Message("user", "one\ntwo")]

    def test_turns_in_a_row_are_one(self) -> None:
        given = (user(text("a")), user(text("b")), assistant(text("c")), assistant(thought("d"), text("e"), CALL))
        assert messages(*given, user(result("f"))) == [
            Message("user", "a\nb"),
            Message("assistant", "ce", tool_calls=(ToolCall("toolu_1", "ping", "{}"),), reasoning="d"),
            Message("tool", "f", tool_call_id="toolu_1"),
        ]

    @pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.")], [text("Be"), text(""), text("brief.")]])
    def test_a_system_prompt_is_the_first_message(self, system: object) -> None:
        first, second = messages(user(text("hello")), system=system)
        assert (first.role, first.content.split()) == ("system", ["Be", "brief."])
        assert second == Message("user", "hello")

    @pytest.mark.parametrize("system", [None, "", [], [text("")], LINE, [text(LINE)]])
    def test_an_empty_system_prompt_is_none(self, system: object) -> None:
        assert messages(user(text("hello")), system=system) == [Message("user", "hello")]

    def test_a_line_that_changes_with_every_request_is_left_out(self) -> None:
        for system in (f"{LINE}\nYou are a coder.", [text(LINE), text("You are a coder.") | CACHED]):
            assert messages(user(text(LINE)), system=system) == [
                Message("system", "You are a coder."),
                Message("user", LINE),
            ]

    def test_the_system_may_speak_later(self) -> None:
        """Claude Code ends its first request with such a message."""
        given = (user(text("hello")), {"role": "system", "content": f"{LINE}\nThere are agents."})
        assert messages(*given, system="A.") == [
            Message("system", "A."),
            Message("user", "hello"),
            Message("system", "There are agents."),
        ]

    def test_empty_messages_are_turns_all_the_same(self) -> None:
        given = (user(), {"role": "assistant", "content": []}, {"role": "user", "content": ""})
        assert messages(*given) == [Message("user", ""), Message("assistant", ""), Message("user", "")]

    def test_documents_of_text_are_their_text(self) -> None:
        plain = {"type": "text", "media_type": "text/plain", "data": "Grass is green."}
        parts = {"type": "content", "content": [text("Grass"), text("is green.")]}
        document = {"type": "document", "source": plain, "title": "On grass", "context": "From 1901."}
        assert messages(user(document | CACHED, text("Is it?"))) == [
            Message("user", "On grass\nFrom 1901.\nGrass is green.\nIs it?")
        ]
        assert messages(user({"type": "document", "source": parts, "citations": {"enabled": False}})) == [
            Message("user", "Grass\nis green.")
        ]


class TestCalls:
    def test_come_back_with_their_results(self) -> None:
        arguments = {"z": 1, "a": {"ü": [None, 2.5]}}
        given = assistant(thought("Hm.", "msg_1"), text("I look."), CALL | {"input": arguments} | CACHED)
        assert messages(user(text("x")), given, user(result("sunny"), text("Go on."))) == [
            Message("user", "x"),
            Message(
                "assistant",
                "I look.",
                tool_calls=(ToolCall("toolu_1", "ping", '{"z":1,"a":{"ü":[null,2.5]}}'),),
                reasoning="Hm.",
            ),
            Message("tool", "sunny", tool_call_id="toolu_1"),
            Message("user", "Go on."),
        ]

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            (result("pong"), "pong"),
            (result([text("po"), text("ng")]), "po\nng"),
            (result(None), ""),
            (result([]), ""),
            (result("pong", is_error=False), "pong"),
            (result("no route", is_error=True), "Error: no route"),
            (result([{"type": "document", "source": {"type": "text", "data": "pong"}}]), "pong"),
        ],
    )
    def test_have_results_of_many_forms(self, fields: dict[str, Any], expected: str) -> None:
        assert messages(CALLED, user(fields))[-1] == Message("tool", expected, tool_call_id="toolu_1")

    def test_have_their_results_before_what_the_user_says(self) -> None:
        other = {"type": "tool_use", "id": "toolu_2", "name": "ping", "input": {}}
        answer = user(result("one"), text("And?"), result("two") | {"tool_use_id": "toolu_2"})
        assert messages(assistant(CALL, other), answer)[1:] == [
            Message("tool", "one", tool_call_id="toolu_1"),
            Message("tool", "two", tool_call_id="toolu_2"),
            Message("user", "And?"),
        ]


class TestThinking:
    @pytest.mark.parametrize("name", ["reasoning_and_text", "reasoning_between", "reasoning_and_call"])
    @pytest.mark.parametrize("hides_thinking", [False, True])
    def test_comes_back_as_it_went(self, name: str, hides_thinking: bool) -> None:
        reply = json.loads(MessagesReply("m", hides_thinking=hides_thinking).message(RECORDINGS[name]))
        back = messages({"role": "assistant", "content": reply["content"]}, user(text("Go on.")))[0]
        expected = {
            "reasoning_and_text": ("The user greets me.\n", "Hello!"),
            "reasoning_between": ("Firstsecond", "onetwo"),
            "reasoning_and_call": ("I need the time.", ""),
        }
        assert (back.reasoning, back.content) == expected[name]

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
    def test_is_whole_in_a_signature(self, thinking: str) -> None:
        signature = MessagesReply("m", hides_thinking=True).signature(thinking)
        assert messages(assistant(thought("", signature)), user(text("x")))[0].reasoning == thinking

    def test_that_is_shown_needs_no_signature(self) -> None:
        given = assistant(thought("shown", MessagesReply("m", hides_thinking=True).signature("hidden")))
        assert messages(given, user(text("x")))[0].reasoning == "shown"

    def test_of_other_servers_is_taken_as_it_is(self) -> None:
        given = assistant({"type": "redacted_thinking", "data": "EmwKAhg"}, thought("Hm.", "EqQBCkY"), text("So."))
        assert messages(given, user(text("x")))[0] == Message("assistant", "So.", reasoning="Hm.")
        unsigned = {"type": "thinking", "thinking": "Hm."}
        assert messages(assistant(unsigned), user(text("x")))[0] == Message("assistant", "", reasoning="Hm.")

    @pytest.mark.parametrize(
        ("keep", "expected"),
        [
            ({"keep": "all"}, ["a", "b", "c", "d"]),
            ({"keep": {"type": "all"}}, ["a", "b", "c", "d"]),
            ({"keep": {"type": "thinking_turns", "value": 9}}, ["a", "b", "c", "d"]),
            ({"keep": {"type": "thinking_turns", "value": 2}}, [None, "b", "c", "d"]),
            ({"keep": {"type": "thinking_turns", "value": 1}}, [None, None, None, "d"]),
            ({}, [None, None, None, "d"]),
        ],
    )
    def test_of_older_turns_is_cleared_when_asked_for(self, keep: dict[str, Any], expected: list[str | None]) -> None:
        """A turn may have several calls, and one without thinking does not count."""
        given = [
            *(user(text("1")), assistant(thought("a"), text("A"))),
            *(user(text("2")), assistant(thought("b"), CALL), user(result("r")), assistant(thought("c"), text("C"))),
            *(user(text("3")), assistant(text("no thought"))),
            *(user(text("4")), assistant(thought("d"), text("D")), user(text("5"))),
        ]
        edits = {"edits": [{"type": "clear_thinking_20251015", **keep}]}
        asked = messages(*given, context_management=edits)
        assert [one.reasoning for one in asked if one.role == "assistant" and one.content != "no thought"] == expected
        assert [one.content for one in asked] == [one.content for one in messages(*given)]
