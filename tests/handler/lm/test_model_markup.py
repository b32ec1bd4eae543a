"""Which markup a model's answers are read by and held to, by its template, the settings and the request."""

from collections.abc import Callable
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper, load

from app.core.conversation import Conversation, Message, RawPrompt, Reasoning, Tool, ToolUse
from app.core.output_format import JsonObject, JsonSchema
from app.core.requests import GenerationRequest
from app.errors import ModelLoadError
from app.handler.lm.guides.grammar_compiler import CallFormat
from app.handler.lm.guides.guide_builder import AnswerForm
from app.handler.lm.prompts.chat_template import ChatTemplate
from app.handler.lm.prompts.model_markup import ModelMarkup
from app.settings import ModelSpec
from tests.fixtures import tiny_tokenizers

Markup = Callable[..., ModelMarkup]

HELLO = [Message("user", "hello")]
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
HERMES = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>"
    'For each call return <tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    "{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>"
    "{% endfor %}<|im_start|>assistant\n"
)
THINKING = HERMES + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
LOOK = Tool("look", None, '{"type":"object","properties":{"at":{"type":"string"}}}')
STRICT = Tool("keep", None, '{"type":"object","properties":{"it":{"type":"integer"}}}', strict=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizers.write(folder)
    return load(folder)


@pytest.fixture
def markup(tokenizer: TokenizerWrapper) -> Markup:
    """The markup of a model with a template, under some settings."""

    def made(template: str, **settings: Any) -> ModelMarkup:
        tokenizer.chat_template = template
        added: dict[str, int] = tokenizer.get_added_vocab()
        return ModelMarkup(ModelSpec.model_validate(settings), ChatTemplate(tokenizer), added)

    return made


def asked(*tools: Tool, tail: str = "", reasoning: Reasoning = Reasoning(), **fields: Any) -> Conversation:
    return Conversation(HELLO, ToolUse(tools, **fields) if tools else None, reasoning)


def form(markup: ModelMarkup, conversation: Conversation, tail: str = "", **fields: Any) -> AnswerForm:
    request = GenerationRequest(conversation, **fields)
    return markup.form(request, markup.reading(conversation, tail), tail)


class TestFamily:
    def test_a_template_without_signs_is_plain_text_until_there_are_tools(self, markup: Markup) -> None:
        plain = markup(PLAIN)
        assert plain.family is None
        assert plain.reading(asked(), "") is None
        reading = plain.reading(asked(LOOK), "")
        assert reading is not None
        assert reading.family.name == "generic"

    def test_the_template_decides(self, markup: Markup) -> None:
        found = markup(THINKING)
        assert found.family is not None
        assert found.family.regions[0].open.strip() == "<tool_call>"
        assert found.family.reasoning is not None
        assert found.why.startswith(f"{found.family.name}, from ")

    def test_the_settings_decide_before_it(self, markup: Markup) -> None:
        found = markup(PLAIN, tool_call_parser="mistral", reasoning_parser="deepseek_r1")
        assert found.family is not None
        assert found.family.regions[0].open.startswith("[TOOL_CALLS]")
        assert found.family.reasoning is not None
        assert found.family.reasoning.close == "</think>"
        assert found.why == "from the settings"
        reading = found.reading(asked(LOOK), "")
        assert reading is not None
        assert reading.family is found.family

    def test_either_can_be_switched_off(self, markup: Markup) -> None:
        without_thoughts = markup(THINKING, reasoning_parser="none").family
        assert without_thoughts is not None
        assert without_thoughts.reasoning is None
        without_calls = markup(THINKING, tool_call_parser="none").family
        assert without_calls is not None
        assert without_calls.regions == ()
        assert markup(THINKING, tool_call_parser="none", reasoning_parser="none").family is None

    def test_a_name_that_is_not_known_lists_those_that_are(self, markup: Markup) -> None:
        with pytest.raises(
            ModelLoadError, match=r"--tool-call-parser 'qwne' is not known; use 'none' or one of: .*qwen3"
        ):
            markup(PLAIN, tool_call_parser="qwne")

    def test_markers_that_are_tokens_are_known(self, markup: Markup) -> None:
        reading = markup(THINKING).reading(asked(LOOK), "")
        assert reading is not None
        assert {"<tool_call>", "<think>", "</think>"} <= reading.special
        assert len(reading.special_tokens) >= 3


class TestReading:
    def test_the_prompt_says_whether_reasoning_is_open(self, markup: Markup) -> None:
        thinking = markup(THINKING)
        for tail, is_open in ("assistant\n<think>\n", True), ("<think>\n\n</think>\n\n", False), ("assistant\n", False):
            reading = thinking.reading(asked(), tail)
            assert reading is not None
            assert reading.starts_in_reasoning is is_open

    def test_tools_that_may_not_be_called_are_not_looked_for(self, markup: Markup) -> None:
        hermes = markup(HERMES)
        some = hermes.reading(asked(LOOK, STRICT, allowed=("keep",)), "")
        assert some is not None
        assert [tool.name for tool in some.tools] == ["keep"]
        none = hermes.reading(asked(LOOK, choice="none"), "")
        assert none is None or none.tools == ()


class TestForm:
    def test_a_raw_prompt_has_nothing_but_its_format(self, markup: Markup) -> None:
        request = GenerationRequest(RawPrompt("hello"), output_format=JsonObject())
        assert markup(THINKING).form(request, None, "") == AnswerForm(JsonObject())

    def test_a_required_call_is_the_whole_answer(self, markup: Markup) -> None:
        held = form(markup(HERMES), asked(LOOK, choice="required"), output_format=JsonObject())
        assert isinstance(held.whole, CallFormat)
        assert held.param == "tools"
        assert '"look' in held.whole.lark

    def test_strict_functions_are_held_where_a_call_opens(self, markup: Markup) -> None:
        (late,) = form(markup(HERMES), asked(LOOK, STRICT)).late
        assert late.opening == "<tool_call>"
        by_name = {schema.name: schema.schema for schema in late.format.schemas}
        assert "integer" in by_name["keep"]
        assert by_name["look"] == "{}"
        assert form(markup(HERMES), asked(LOOK)).late == ()
        assert form(markup(HERMES), asked(LOOK, STRICT, allowed=("look",))).late == ()

    def test_a_schema_leaves_calls_possible(self, markup: Markup) -> None:
        held = form(markup(HERMES), asked(LOOK), output_format=JsonSchema('{"type":"object"}'))
        assert isinstance(held.whole, CallFormat)
        assert held.whole.lark.startswith("start: (calls |  schema_1)\ncalls: ")
        assert held.whole.schemas[-1] == JsonSchema('{"type":"object"}')

    @pytest.mark.parametrize(
        ("tail", "reasoning", "is_there", "is_open"),
        [
            ("<think>\n", Reasoning(max_tokens=9), True, True),
            ("assistant\n", Reasoning(), True, False),
            ("assistant\n", Reasoning(is_enabled=False), False, False),
            ("assistant\n", Reasoning(effort="none"), False, False),
            ("<think>\n\n</think>\n\n", Reasoning(), False, False),
        ],
    )
    def test_reasoning_comes_first_where_there_may_be_some(
        self, markup: Markup, tail: str, reasoning: Reasoning, is_there: bool, is_open: bool
    ) -> None:
        held = form(markup(THINKING), asked(reasoning=reasoning), tail)
        assert (held.reasoning is not None) == is_there
        if held.reasoning is not None:
            assert held.reasoning.is_open == is_open
            assert held.reasoning.budget == reasoning.max_tokens
            assert held.reasoning.closing.strip() == held.reasoning.close == "</think>"

    def test_a_model_whose_template_never_thinks_does_not(self, markup: Markup) -> None:
        assert form(markup(HERMES), asked(), "assistant\n").reasoning is None

    def test_answers_that_are_messages_have_their_header_before_json(self, markup: Markup) -> None:
        harmony = markup(PLAIN, tool_call_parser="gpt-oss", reasoning_parser="gpt-oss")
        schema = JsonSchema('{"type":"boolean"}')
        held = form(harmony, asked(reasoning=Reasoning(max_tokens=5)), output_format=schema)
        assert isinstance(held.whole, CallFormat)
        assert held.whole.lark == 'start: ("<|start|>assistant")? "<|channel|>final<|message|>" schema_0'
        assert held.reasoning is not None
        assert held.reasoning.closing == "<|end|><|start|>assistant"
        called = form(harmony, asked(LOOK, choice="required"))
        assert isinstance(called.whole, CallFormat)
        assert called.whole.lark.startswith('start: ("<|start|>assistant")? calls\n')


def test_an_answer_goes_on_behind_its_header(markup: Markup) -> None:
    harmony = markup(PLAIN, tool_call_parser="harmony", reasoning_parser="harmony")
    assert harmony.continued("<|start|>assistant", "Well, ").endswith("assistant<|channel|>final<|message|>Well, ")
    assert markup(PLAIN).continued("A: ", "Well, ") == "A: Well, "
