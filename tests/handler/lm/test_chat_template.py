"""What conversations become, by the peculiarities of small templates."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from mlx_lm.chat_templates import deepseek_v32
from mlx_lm.tokenizer_utils import TokenizerWrapper, load

from app.core.conversation import Conversation, Message, Reasoning, Tool, ToolCall, ToolUse
from app.errors import InvalidRequest
from app.handler.lm.prompts import template_probes
from app.handler.lm.prompts.chat_template import ChatTemplate
from app.handler.lm.prompts.template_traits import Traits
from tests.fixtures import templates, tiny_tokenizers

Render = Callable[..., str]

WEATHER = Tool(
    "weather", "How it is", '{"type":"object","required":["city"],"properties":{"city":{"type":"string"}}}', strict=True
)
USER = Message("user", "hello")
ANSWER = Message("assistant", "hi")
ARGUMENTS = '{"city": "S\\u00e3o \\"P\\"", "opts": {"days": [1, 2]}, "exact": true, "none": null}'
CALL = ToolCall("call_1", "weather", '{"city":"Rome"}')
OTHER = ToolCall("call_2", "time", "{}")
CALLING = Message("assistant", "", tool_calls=(CALL, OTHER))
RESULT = Message("tool", "sunny", tool_call_id="call_1")
OTHER_RESULT = Message("tool", "noon", tool_call_id="call_2")
SHOWN = '<call weather>{"city": "Rome"}</call>'
ROUND = [USER, CALLING, RESULT, OTHER_RESULT]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizers.write(folder)
    return load(folder)


@pytest.fixture
def render(tokenizer: TokenizerWrapper) -> Render:
    """Renders messages with a template, with `tools` and further fields of a conversation."""

    def rendered(template: object, messages: list[Message], *tools: Tool, **fields: object) -> str:
        tokenizer.chat_template = template
        use = ToolUse(tools) if tools else None
        return ChatTemplate(tokenizer).render(Conversation(messages, use, **fields))  # type: ignore[arg-type]

    return rendered


class TestTools:
    def test_nested_in_the_clients_order(self, render: Render) -> None:
        assert render(templates.USUAL, [USER], WEATHER, Tool("ping")) == (
            '<tools>[{"type": "function", "function": {"name": "weather", "description": "How it is", "parameters": '
            '{"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}}}, '
            '{"type": "function", "function": {"name": "ping", "parameters": {"type": "object", "properties": {}}}}]'
            "</tools><user>hello<assistant>"
        )

    def test_a_schema_that_says_nothing_is_one_of_no_parameters(self, render: Render) -> None:
        assert '"parameters": {"type": "object", "properties": {}}' in render(
            templates.USUAL, [USER], Tool("ping", None, "{}")
        )

    def test_none_are_mentioned_where_none_may_be_called(self, tokenizer: TokenizerWrapper) -> None:
        tokenizer.chat_template = templates.USUAL
        template = ChatTemplate(tokenizer)
        without = template.render(Conversation([USER], ToolUse((WEATHER,), "none")))
        assert without == template.render(Conversation([USER]))

    def test_all_are_listed_where_some_are_allowed(self, tokenizer: TokenizerWrapper) -> None:
        tokenizer.chat_template = templates.USUAL
        template = ChatTemplate(tokenizer)
        tools = (WEATHER, Tool("ping"))
        assert template.render(Conversation([USER], ToolUse(tools, "required", ("ping",)))) == template.render(
            Conversation([USER], ToolUse(tools))
        )

    def test_beside_a_system_message_only(self, render: Render) -> None:
        template = templates.of(
            "<{{ m.role }}>{{ m.content }}{% if m.role == 'system' %}" + templates.TOOLS + "{% endif %}@calls",
            before="",
        )
        assert render(template, [USER], WEATHER).startswith("<system>You are a model that can do function calling")
        assert render(template, [Message("system", "Be brief."), USER], WEATHER).startswith("<system>Be brief.<tools>")
        assert render(template, [USER]) == "<user>hello<assistant>"

    def test_as_text_in_the_system_message(self, render: Render) -> None:
        template = templates.of(
            "<{{ m.role }}>{{ m.content }}{% if m.tools %}<tools>{{ m.tools + '</tools>' }}{% endif %}@calls", before=""
        )
        text = render(template, [Message("system", "Be brief."), USER], Tool("ping"))
        assert text.startswith('<system>Be brief.<tools>[{"type": "function", "function": {"name": "ping",')

    def test_an_empty_list_where_the_template_cannot_do_without(self, render: Render) -> None:
        template = templates.of("{{ m.content }}@calls", before="{{ tools | length }}:")
        assert render(template, [USER]) == "0:hello<assistant>"

    def test_descriptions_where_the_template_cannot_do_without(self, render: Render) -> None:
        shown = (
            "{{ f.name + ': ' + f.description }}"
            "{% for k, v in f.parameters.properties.items() %}|{{ k + v.description }}"
        )
        template = templates.of(
            "{{ m.content }}@calls",
            before="{% for t in tools or [] %}{% set f = t.function %}" + shown + "{% endfor %}{% endfor %};",
        )
        assert render(template, [USER], WEATHER, Tool("ping")) == "weather: How it is|cityping: ;hello<assistant>"


class TestResults:
    def test_behind_their_calls_in_the_order_of_these(self, render: Render) -> None:
        shown = templates.of("<{{ m.role }} {{ m.name }}>{{ m.content }}@calls")
        text = render(shown, [USER, CALLING, USER, OTHER_RESULT, RESULT])
        assert text == (
            '<user >hello<assistant ><call weather>{"city": "Rome"}</call><call time>{}</call>'
            "<tool weather>sunny<tool time>noon<user >hello<assistant>"
        )

    def test_one_that_comes_before_its_call(self, render: Render) -> None:
        assert render(templates.USUAL, [RESULT, *ROUND[:2], OTHER_RESULT]) == render(templates.USUAL, ROUND)
        assert render(templates.USUAL, [RESULT, CALLING, CALLING]).count("<tool>sunny<assistant>" + SHOWN) == 1

    @pytest.mark.parametrize("messages", [[USER, RESULT], [*ROUND, RESULT]])
    def test_one_without_a_call_is_refused(self, render: Render, messages: list[Message]) -> None:
        place = len(messages) - 1
        with pytest.raises(InvalidRequest, match=rf"messages\[{place}\] .*'call_1'") as refusal:
            render(templates.USUAL, messages)
        assert refusal.value.param == "messages"

    def test_a_call_may_have_none(self, render: Render) -> None:
        assert render(templates.USUAL, [USER, CALLING, OTHER_RESULT, USER]).endswith("<tool>noon<user>hello<assistant>")

    def test_an_id_that_is_used_again_means_the_nearest_call(self, render: Render) -> None:
        shown = templates.of(
            "{{ m.content }}{{ m.tool_call_id }}@calls{% for c in m.tool_calls %}{{ c.id }}{% endfor %};"
        )
        again = Message("assistant", "", tool_calls=(CALL, CALL))
        more = [Message("tool", text, tool_call_id="call_1") for text in ("a", "b")]
        text = render(shown, [USER, CALLING, RESULT, again, *more])
        assert text.endswith(
            "</call>call_1call_2;sunnycall_1;" + 2 * SHOWN + "call_1-2call_1-3;acall_1-2;bcall_1-3;<assistant>"
        )

    @pytest.mark.parametrize("otherwise", ["{{ raise_exception('no tools') }}", ""])
    def test_in_the_users_name_where_the_role_is_refused(self, render: Render, otherwise: str) -> None:
        template = templates.of(
            "{% if m.role == 'tool' %}" + otherwise + "{% else %}<{{ m.role }}>{{ m.content }}@calls{% endif %}"
        )
        assert render(template, ROUND) == (
            f"<user>hello<assistant>{SHOWN}<call time>{{}}</call>"
            "<user><tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response><assistant>"
        )

    def test_objects_where_a_text_would_be_quoted(self, render: Render) -> None:
        template = templates.of(
            "{% if m.role == 'tool' %}{{ m.content | tojson }};{% else %}{{ m.content }}@calls{% endif %}"
        )
        results = [
            Message("tool", '{"degrees": 21}', tool_call_id="call_1"),
            Message("tool", "{not JSON", tool_call_id="call_2"),
        ]
        assert render(template, [USER, CALLING, *results]).endswith('{"degrees": 21};"{not JSON";<assistant>')


class TestArguments:
    TAGS = "{% for k, v in f.arguments.items() %}<{{ k }}>{{ v }}</{{ k }}>{% endfor %}"
    PYTHON = "({% for k, v in f.arguments.items() %}{{ k }}={{ v }}, {% endfor %})"
    HALF_TAGS = TAGS.replace("{{ v }}", "{{ v | tojson if v is boolean or v is none else v }}")
    NATIVE = (
        "{% for k, v in f.arguments.items() %}{{ k }}:"
        "{% if v is string %}'{{ v }}'{% else %}{{ v if v is none else v | tojson }}{% endif %},{% endfor %}"
    )

    @pytest.mark.parametrize(
        ("shown", "expected"),
        [
            (
                "{{ f.arguments | tojson }}",
                '{"city": "S\u00e3o \\"P\\"", "opts": {"days": [1, 2]}, "exact": true, "none": null}',
            ),
            (
                "{{ f.arguments }}",
                '{"city": "S\u00e3o \\"P\\"", "opts": {"days": [1, 2]}, "exact": true, "none": null}',
            ),
            (TAGS, '<city>S\u00e3o "P"</city><opts>{"days": [1, 2]}</opts><exact>true</exact><none>null</none>'),
            (HALF_TAGS, '<city>S\u00e3o "P"</city><opts>{"days": [1, 2]}</opts><exact>true</exact><none>null</none>'),
            (PYTHON, "(city='S\u00e3o \"P\"', opts={'days': [1, 2]}, exact=True, none=None, )"),
            (NATIVE, 'city:\'S\u00e3o "P"\',opts:{"days": [1, 2]},exact:true,'),
        ],
        ids=["object", "text", "values", "lists and objects", "literals", "without null"],
    )
    def test_as_the_template_shows_them_best(self, render: Render, shown: str, expected: str) -> None:
        calling = Message("assistant", "", tool_calls=(ToolCall("call_1", "weather", ARGUMENTS),))
        assert f"<call weather>{expected}</call>" in render(templates.arguments(shown), [USER, calling, RESULT])

    @pytest.mark.parametrize("shown", ["{{ f.arguments | tojson }}", "{{ f.arguments }}"])
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "{}"),
            (" ", "{}"),
            ('{"city": "Ro', '{"arguments": "{\\"city\\": \\"Ro"}'),
            ("[1]", '{"arguments": "[1]"}'),
        ],
    )
    def test_what_is_no_object_becomes_one(self, render: Render, shown: str, text: str, expected: str) -> None:
        calling = Message("assistant", "", tool_calls=(ToolCall("call_1", "weather", text),))
        assert f"<call weather>{expected}</call>" in render(templates.arguments(shown), [USER, calling, RESULT])


class TestCalls:
    def test_one_a_message(self, render: Render) -> None:
        template = templates.of(
            "<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}{% set c = m.tool_calls[0] %}"
            + templates.CALL
            + "{% endif %}"
        )
        speaking = Message("assistant", "Wait.", tool_calls=(CALL, OTHER))
        assert render(template, [USER, speaking, OTHER_RESULT, RESULT]) == (
            '<user>hello<assistant>Wait.<call weather>{"city": "Rome"}</call><tool>sunny'
            "<assistant><call time>{}</call><tool>noon<assistant>"
        )

    def test_content_in_a_message_of_its_own(self, render: Render) -> None:
        template = templates.of("<{{ m.role }}>{% if m.tool_calls %}@calls{% else %}{{ m.content }}{% endif %}")
        speaking = Message("assistant", "Wait.", tool_calls=(CALL,))
        assert render(template, [USER, speaking, RESULT]).startswith("<user>hello<assistant>Wait.<assistant><call")

    def test_content_that_is_refused_beside_reasoning(self, render: Render) -> None:
        template = templates.of(
            "{% if m.tool_calls and m.content and m.thinking %}{{ raise_exception('not both') }}{% endif %}"
            "<{{ m.role }}>{{ m.thinking }}|{{ m.content }}@calls"
        )
        speaking = Message("assistant", "Wait.", tool_calls=(CALL,), reasoning="Hm.")
        assert "<assistant>Hm.\n\nWait.|<call" in render(template, [USER, speaking, RESULT])

    def test_no_content_where_not_even_an_empty_one_is_taken(self, render: Render) -> None:
        template = templates.of(
            "{% if m.tool_calls and m.content is defined and not m.content %}{{ raise_exception('empty') }}{% endif %}"
            "<{{ m.role }}>{{ m.content | default('') }}@calls"
        )
        assert render(template, ROUND).startswith('<user>hello<assistant><call weather>{"city": "Rome"}')

    def test_nowhere_the_word_none(self, render: Render) -> None:
        assert "None" not in render(templates.USUAL, ROUND, WEATHER)

    def test_hidden_where_there_are_no_tools(self, render: Render) -> None:
        template = templates.of("<{{ m.role }}>{{ m.content }}{% if tools %}@calls{% endif %}")
        assert '<call weather>{"city": "Rome"}' in render(template, ROUND, WEATHER)
        assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>' in render(
            template, ROUND
        )

    @pytest.mark.parametrize(
        ("sign", "expected"),
        [
            (
                "<|start_of_role|><|tool_call|>",
                '<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome"}}, {"name": "time", "arguments": {}}]',
            ),
            ("<|tool_list_start|>", "<|tool_call_start|>[weather(city='Rome'), time()]<|tool_call_end|>"),
        ],
    )
    def test_in_the_familys_form_where_the_template_shows_tools_only(
        self, render: Render, sign: str, expected: str
    ) -> None:
        template = templates.of("<{{ m.role }}>{{ m.content }}", before="{# " + sign + " #}" + templates.TOOLS)
        assert f"<assistant>{expected}<tool>sunny<tool>noon" in render(template, ROUND, WEATHER)


class TestIds:
    SHOWN = "{% for c in m.tool_calls %}{{ c.id }} {{ c.function }}{% endfor %}{{ m.tool_call_id }};"

    def test_as_they_come(self, render: Render) -> None:
        text = render(templates.of("{{ m.content }}" + self.SHOWN), ROUND)
        assert [text.count(name) for name in ("call_1", "call_2")] == [2, 2]

    def test_nine_letters_and_digits(self, render: Render) -> None:
        check = (
            "{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}{% endfor %}"
        )
        template = templates.of("{{ m.content }}" + check + self.SHOWN)
        calling = Message("assistant", "", tool_calls=(CALL, ToolCall("abcdefgh9", "time", "{}")))
        text = render(template, [USER, calling, RESULT])
        new = text.split(";")[1][:9]
        assert new.isalnum()
        assert text.count(new) == 2
        assert "abcdefgh9 " in text
        assert render(template, [USER, calling, RESULT]) == text

    def test_built_from_the_name_where_the_template_does_so_itself(self, render: Render) -> None:
        named = (
            "{% for c in m.tool_calls %}functions.{{ c.function.name }}:{{ loop.index0 }} {{ c.function.arguments }}"
        )
        template = templates.of("{{ m.content }}" + named + "{% endfor %}{{ m.tool_call_id }};")
        text = render(template, [*ROUND, *ROUND[1:]])
        assert text.count("functions.weather:0") == text.count("functions.time:1") == 4

    def test_counted_through_the_conversation_for_a_model_that_does_so(self, render: Render) -> None:
        template = templates.of(
            "{{ m.content }}" + self.SHOWN, before="{# <|tool_calls_section_begin|> #}" + templates.TOOLS
        )
        text = render(template, [*ROUND, *ROUND[1:]])
        assert [text.count(f"functions.{name}") for name in ("weather:0", "time:1", "weather:2", "time:3")] == [2] * 4


class TestSystem:
    LATER: Final = [Message("system", "one"), USER, ANSWER, Message("system", "two"), USER]

    def test_where_it_stands(self, render: Render) -> None:
        assert (
            render(templates.USUAL, self.LATER)
            == "<system>one<user>hello<assistant>hi<system>two<user>hello<assistant>"
        )

    @pytest.mark.parametrize("otherwise", ["{{ raise_exception('first') }}", ""])
    def test_at_the_front(self, render: Render, otherwise: str) -> None:
        template = templates.of(
            "{% if m.role == 'system' and not loop.first %}"
            + otherwise
            + "{% else %}<{{ m.role }}>{{ m.content }}@calls{% endif %}"
        )
        assert render(template, self.LATER) == "<system>one\n\ntwo<user>hello<assistant>hi<user>hello<assistant>"

    @pytest.mark.parametrize("otherwise", ["{{ raise_exception('no system') }}", ""])
    def test_in_the_users_message(self, render: Render, otherwise: str) -> None:
        template = templates.of(
            "{% if m.role == 'system' %}" + otherwise + "{% else %}<{{ m.role }}>{{ m.content }}@calls{% endif %}"
        )
        assert render(template, self.LATER) == "<user>one\n\ntwo\n\nhello<assistant>hi<user>hello<assistant>"
        assert render(template, [Message("system", "one"), ANSWER, USER]).startswith("<user>one<assistant>hi")

    def test_in_the_users_message_where_a_result_would_hide_it(self, render: Render) -> None:
        template = templates.of(
            "{% if m.role == 'system' %}"
            "{% elif loop.last and m.role == 'user' %}<user>{{ messages[0].content }}|{{ m.content }}"
            "{% else %}<{{ m.role }}>{{ m.content }}@calls{% endif %}"
        )
        assert "one" in render(template, [Message("system", "one"), *ROUND], WEATHER)


class TestTurns:
    ALTERNATING = templates.of(
        "{% if m.role != 'tool' and not m.tool_calls %}"
        "{% if (m.role == 'user') != (ns.n % 2 == 0) %}{{ raise_exception('take turns') }}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{% endif %}<{{ m.role }}>{{ m.content }}@calls",
        before="{% set ns = namespace(n=0) %}" + templates.TOOLS,
    )

    def test_neighbours_become_one(self, render: Render) -> None:
        messages = [USER, Message("user", "again"), ANSWER, Message("assistant", "more"), USER]
        assert render(self.ALTERNATING, messages) == "<user>hello\n\nagain<assistant>hi\n\nmore<user>hello<assistant>"

    def test_but_not_where_they_may_follow_each_other(self, render: Render) -> None:
        assert render(templates.USUAL, [USER, USER]) == "<user>hello<user>hello<assistant>"

    def test_the_user_begins(self, render: Render) -> None:
        assert render(self.ALTERNATING, [ANSWER, USER]) == "<user>Continue.<assistant>hi<user>hello<assistant>"
        assert render(self.ALTERNATING, [CALLING]).startswith("<user>Continue.<assistant><call")

    def test_a_user_who_speaks_before_the_answer_to_a_result(self, render: Render) -> None:
        text = render(self.ALTERNATING, [*ROUND, Message("user", "stop")])
        assert text.endswith("<tool>sunny<tool>noon<assistant>OK.<user>stop<assistant>")

    def test_content_and_calls_of_two_messages(self, render: Render) -> None:
        assert "<assistant>hi<call weather>" in render(self.ALTERNATING, [USER, ANSWER, CALLING, RESULT])

    def test_content_that_calls_would_hide_stays_apart(self, render: Render) -> None:
        hiding = self.ALTERNATING.replace("{{ m.content }}", "{{ '' if m.tool_calls else m.content }}")
        assert "<assistant>hi<assistant><call weather>" in render(hiding, [USER, ANSWER, CALLING, RESULT])


class TestReasoning:
    THINKING = Message("assistant", "hi", tool_calls=(CALL,), reasoning="Hm.")

    @pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
    def test_under_the_name_that_the_template_reads(self, render: Render, name: str) -> None:
        template = templates.of("<{{ m.role }}>[{{ m." + name + " }}]{{ m.content }}@calls")
        assert "<assistant>[Hm.]hi<call" in render(template, [USER, self.THINKING, RESULT])

    def test_as_a_part_of_the_content(self, render: Render) -> None:
        template = templates.of(
            "<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
            "{% if p.type == 'thinking' %}[{{ p.thinking }}]{% else %}{{ p.text }}{% endif %}{% endfor %}"
            "{% endif %}@calls"
        )
        assert "<assistant>[Hm.]hi<call" in render(template, [USER, self.THINKING, RESULT])

    def test_the_template_decides_whether_it_stays(self, render: Render) -> None:
        template = templates.of(
            "<{{ m.role }}>{% if loop.last %}{{ m.reasoning_content }}{% endif %}{{ m.content }}@calls"
        )
        assert "Hm." not in render(template, [USER, self.THINKING, RESULT])

    def test_a_template_that_prints_what_it_is_given_gets_no_parts(self, render: Render) -> None:
        assert render(templates.USUAL, [USER, self.THINKING, RESULT]).startswith("<user>hello<assistant>hi<call")


def test_content_as_a_list_of_parts(render: Render) -> None:
    template = templates.of("<{{ m.role }}>{% for p in m.content %}{{ p['text'] }}{% endfor %}@calls")
    assert render(template, [Message("system", "one"), USER, ANSWER, USER]) == (
        "<system>one<user>hello<assistant>hi<user>hello<assistant>"
    )


class TestWithoutTools:
    PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + templates.END

    def test_the_generic_prompt(self, render: Render) -> None:
        speaking = Message("assistant", "Wait.", tool_calls=(CALL, OTHER))
        assert render(self.PLAIN, [Message("system", "Be brief."), USER, speaking, RESULT], Tool("ping", "Pong")) == (
            "<system>Be brief.\n\n"
            "# Tools\n\n"
            "You can call these functions; each is described with a JSON schema of its arguments:\n"
            "<tools>\n"
            '{"name": "ping", "description": "Pong", "parameters": {"type": "object", "properties": {}}}\n'
            "</tools>\n\n"
            "To call one or several, answer in this form, once for each call:\n"
            "<tool_call>\n"
            '{"name": <name of the function>, "arguments": <object of its arguments>}\n'
            "</tool_call>\n\n"
            "Answer without a call where no function is needed."
            "<user>hello"
            '<assistant>Wait.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
            '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
            "<user><tool_response>\nsunny\n</tool_response><assistant>"
        )

    def test_in_a_system_message_of_its_own(self, render: Render) -> None:
        assert render(self.PLAIN, [USER], WEATHER).startswith("<system># Tools\n")
        assert render(self.PLAIN, [USER]) == "<user>hello<assistant>"

    def test_with_turns_and_no_system_message(self, render: Render) -> None:
        strict = (
            "{% for m in messages %}"
            "{% if m.role not in ['user', 'assistant'] or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('no') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}" + templates.END
        )
        text = render(strict, [Message("system", "Be brief."), *ROUND, USER], WEATHER)
        assert text.startswith("<user>Be brief.\n\n# Tools\n")
        assert text.endswith("noon\n</tool_response>\n\nhello<assistant>")

    def test_calls_of_the_models_own_where_the_template_shows_these(self, render: Render) -> None:
        own = "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments }}{% endfor %}"
        text = render(templates.of("<{{ m.role }}>{{ m.content }}" + own + ";", before=""), ROUND, WEATHER)
        assert '\n[TOOL_CALLS]function_name[ARGS]{"argument": "value"}\n' in text
        assert 'hello;<assistant>[TOOL_CALLS]weather[ARGS]{"city": "Rome"}[TOOL_CALLS]time[ARGS]{};<tool>sunny' in text

    def test_what_is_said_of_it(self, tokenizer: TokenizerWrapper) -> None:
        for text, knows in (self.PLAIN, False), (templates.USUAL, True):
            tokenizer.chat_template = text
            template = ChatTemplate(tokenizer)
            assert template.knows_tools is template.mentions("<tools>") is knows


class TestVariables:
    SWITCH = "{{ messages[-1].content }} {{ enable_thinking | default('?') }} {{ tool_choice | default('?') }}"

    def test_how_to_think(self, render: Render) -> None:
        assert render(self.SWITCH, [USER], reasoning=Reasoning(is_enabled=False)) == "hello False ?"
        assert render(self.SWITCH, [USER], reasoning=Reasoning(effort="low")) == "hello True ?"
        assert render(self.SWITCH, [USER]) == "hello ? ?"

    def test_the_clients_arguments_win(self, render: Render) -> None:
        arguments = {"enable_thinking": True}
        asked = Reasoning(is_enabled=False)
        assert render(self.SWITCH, [USER], reasoning=asked, template_arguments=arguments) == "hello True ?"

    def test_the_name_that_clients_know_for_another(self, render: Render) -> None:
        template = "{{ thinking }} {{ reasoning_effort | default('?') }}"
        assert render(template, [USER], template_arguments={"enable_thinking": False}) == "False ?"
        asked = Reasoning(is_enabled=True)
        assert render(template, [USER], reasoning=asked, template_arguments={"enable_thinking": False}) == "True ?"

    def test_a_word_in_the_system_message(self, render: Render) -> None:
        template = "{% set off = '/no_think' in messages[0].content %}{{ off }} {{ messages[0].content }}"
        asked = Reasoning(is_enabled=False)
        assert render(template, [USER], reasoning=asked) == "True /no_think"
        assert render(template, [Message("system", "one"), USER], reasoning=asked) == "True one\n\n/no_think"
        assert render(template, [USER]) == "False hello"

    def test_that_a_call_is_required(self, tokenizer: TokenizerWrapper) -> None:
        tokenizer.chat_template = self.SWITCH + templates.TOOLS
        template = ChatTemplate(tokenizer)
        required, free = (
            template.render(Conversation([USER], use)) for use in (ToolUse((WEATHER,), "required"), ToolUse((WEATHER,)))
        )
        assert required.startswith("hello ? required<tools>")
        assert free.startswith("hello ? ?<tools>")

    def test_whether_the_answer_is_opened(self, render: Render) -> None:
        assert render(templates.USUAL, [USER], opens_answer=False) == "<user>hello"


class TestPrograms:
    """What renders in place of a template, and several of them."""

    def test_a_function_of_mlx_lm(self, tmp_path: Path) -> None:
        tiny_tokenizers.write(tmp_path, template=None)
        wrapper = load(tmp_path)
        wrapper._chat_template = deepseek_v32.apply_chat_template
        wrapper.has_chat_template = True
        template = ChatTemplate(wrapper)
        assert template.detected.family == "deepseek-v3.2"
        tools = ToolUse((WEATHER,))
        text = template.render(Conversation(ROUND, tools, template_arguments={"enable_thinking": False}))
        assert '"name": "weather"' in text
        assert '<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>' in text
        assert "<result>sunny</result>\n<result>noon</result>" in text
        assert text.endswith("</think>")
        assert template.render(Conversation([USER], template_arguments={"enable_thinking": True})).endswith("<think>")

    def test_the_template_for_tools(self, tokenizer: TokenizerWrapper) -> None:
        several = {"default": "{{ messages[-1].content }}", "tool_use": "{# [TOOL_CALLS] #}" + templates.USUAL}
        tokenizer.chat_template = several
        template = ChatTemplate(tokenizer)
        assert template.detected.family == "mistral-v3"
        assert template.render(Conversation([USER])) == "hello"
        assert template.render(Conversation([USER], ToolUse((WEATHER,)))).startswith('<tools>[{"type": "function"')

    def test_thinking_is_the_templates_decision(self, render: Render) -> None:
        """mlx_lm's own method would switch it on for a tokenizer with these tokens."""
        assert render("{{ enable_thinking is defined }}", [USER]) == "False"


class TestProbes:
    @pytest.mark.parametrize("template", ["{% if %}", "{{ raise_exception('never') }}", "{{ 1 / 0 }}", ""])
    def test_a_template_that_refuses_all_is_taken_as_the_usual_kind(
        self, tokenizer: TokenizerWrapper, template: str
    ) -> None:
        tokenizer.chat_template = template
        traits = ChatTemplate(tokenizer).traits
        assert (traits.tools, traits.calls, traits.system) == ("argument", "all", "anywhere")

    def test_what_a_slow_template_has_no_time_to_show_is_taken_as_usual(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def attempt(messages: list[Message], tools: tuple[Tool, ...], traits: Traits) -> str:
            time.sleep(0.1 if tools else 0)
            return " ".join(message.content for message in messages)

        monkeypatch.setattr(template_probes, "_LIMIT_S", 0.05)
        assert template_probes.probe(attempt, Traits()).tools == "argument"
