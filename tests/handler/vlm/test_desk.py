import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from PIL import Image

from app.core.conversation import Conversation, Media, Message, Tool, ToolCall, ToolUse
from app.core.events import Tokenized
from app.core.requests import GenerationRequest, Sampling, TokenizeRequest
from app.errors import ContextLengthExceeded, InvalidRequest
from tests.fixtures.pictures import bomb, encoded, picture
from tests.fixtures.seeing import HERE, Seeing, asked, said

FolderOf = Callable[[str], Path]
WIDE = picture(100, 80)


@pytest.fixture(scope="module")
def seeing(seeing_folder: FolderOf) -> Seeing:
    return Seeing(seeing_folder("qwen2_vl"))


def refusal(seeing: Seeing, *messages: Message) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        seeing.handler.prepare(asked(*messages))
    return caught.value


def with_template(seeing_folder: FolderOf, folder: Path, template: str) -> Seeing:
    shutil.copytree(seeing_folder("qwen2_vl"), folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return Seeing(folder)


def num_placeholders(seeing: Seeing, request: GenerationRequest) -> int:
    config = json.loads((seeing.handler.folder / "config.json").read_text(encoding="utf-8"))
    return seeing.handler.prepare(request).prompt.count(config["image_token_id"])


class TestBadFiles:
    @pytest.mark.parametrize(
        ("data", "word"),
        [
            (b"", "empty"),
            (b"GIF89a no more", "no image"),
            (b"%PDF-1.7 something", "no image"),
            (encoded(picture(64, 64))[:300], "damaged"),
            (bomb(), "pixels"),
        ],
    )
    def test_the_answer_names_the_place(self, seeing: Seeing, data: bytes, word: str) -> None:
        error = refusal(seeing, Message("system", "be brief"), said(f"{HERE} and {HERE}", WIDE, data))
        assert error.param == "messages[1].image[1]"
        assert word in error.message
        # It goes on as if nothing had been.
        assert seeing.answer(asked(said(f"{HERE}what?", WIDE))).text

    def test_the_place_is_the_clients_own(self, seeing: Seeing) -> None:
        message = Message("user", "see", media=(Media("image", b"", 0, place="input[0].content[2].image_url"),))
        assert refusal(seeing, message).param == "input[0].content[2].image_url"

    def test_more_pixels_than_the_setting_allows(self, seeing_folder: FolderOf) -> None:
        small = Seeing(seeing_folder("qwen2_vl"), max_input_pixels=7999)
        assert "7999" in refusal(small, said(HERE, WIDE)).message

    def test_a_side_too_long_for_the_processor(self, seeing: Seeing) -> None:
        error = refusal(seeing, said(f"{HERE}what?", picture(1000, 3)))
        assert error.param == "messages[0].image[0]"
        assert "aspect ratio" in error.message


class TestPlaces:
    def test_a_picture_at_the_very_end(self, seeing: Seeing) -> None:
        request = asked(said(f"what is {HERE}", WIDE))
        closed = replace(request, prompt=replace(request.prompt, opens_answer=False))
        seeing.handler.prepare(closed)

    @pytest.mark.parametrize("spelled", ["<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"])
    def test_a_text_that_spells_the_marker(self, seeing: Seeing, spelled: str) -> None:
        assert "'<|image_pad|>'" in refusal(seeing, said(f"{HERE}what is {spelled}?", WIDE)).message
        # Without a picture it is what a client makes of it.
        seeing.handler.prepare(asked(Message("user", f"what is {spelled}?")))

    @pytest.mark.parametrize("text", [f"{HERE}what is <image_soft_token>?", f"<image_soft_token>? {HERE} here"])
    def test_a_text_that_spells_what_a_marker_becomes(self, seeing_folder: FolderOf, text: str) -> None:
        assert "'<start_of_image>'" in refusal(Seeing(seeing_folder("gemma3")), said(text, WIDE)).message

    def test_a_template_that_leaves_pictures_out(self, seeing_folder: FolderOf, tmp_path: Path) -> None:
        own = (seeing_folder("qwen2_vl") / "chat_template.jinja").read_text(encoding="utf-8")
        template = own.replace("c.type == 'image'", "c.type == 'image' and m.role == 'user'")
        assert template != own
        seeing = with_template(seeing_folder, tmp_path / "model", template)
        messages = [said(f"{HERE}", WIDE, role="system"), said(f"{HERE}what?", WIDE)]
        assert "shows 1 of the 2 images" in refusal(seeing, *messages).message
        assert seeing.answer(asked(messages[1])).text

    def test_a_template_for_text_is_given_the_marker(self, seeing_folder: FolderOf, tmp_path: Path) -> None:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
        seeing = with_template(seeing_folder, tmp_path / "model", template)
        prompt = seeing.handler.prepare(asked(said(f"see {HERE} here", WIDE))).prompt
        text = seeing.handler._prompts.text(prompt)
        assert text.startswith("user: see <|image_pad|>")
        assert text.endswith("<|image_pad|> here\nassistant: ")

    @pytest.mark.parametrize("is_shown", [True, False])
    def test_a_picture_in_a_tools_result(self, seeing_folder: FolderOf, tmp_path: Path, *, is_shown: bool) -> None:
        """A screenshot: in the result where the template has it there, else in a message of the user."""
        own = (seeing_folder("qwen2_vl") / "chat_template.jinja").read_text(encoding="utf-8")
        tools = "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
        calls = "{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>"
        template = tools + own.replace("<|im_end|>", calls)
        if not is_shown:
            template = template.replace("c.type == 'image'", "c.type == 'image' and m.role != 'tool'")
        seeing = with_template(seeing_folder, tmp_path / "model", template)
        messages = [
            Message("user", "look"),
            Message("assistant", "", tool_calls=(ToolCall("call_1", "screenshot", "{}"),)),
            replace(said(f"done {HERE}", WIDE, role="tool"), tool_call_id="call_1"),
        ]
        tool_use = ToolUse((Tool("screenshot", "Takes one."),))
        request = GenerationRequest(Conversation(messages, tool_use), Sampling(temperature=0), max_tokens=8)
        text = seeing.handler._prompts.text(seeing.handler.prepare(request).prompt)
        end = "<|im_end|>\n<|im_start|>assistant\n"
        picture_text = f"<|vision_start|>{text.count('<|image_pad|>') * '<|image_pad|>'}<|vision_end|>"
        shown = f"done {picture_text}{end}" if is_shown else f"done <|im_end|>\n<|im_start|>user\n{picture_text}{end}"
        assert text.endswith(shown)
        assert seeing.answer(request).usage.prompt_tokens > text.count("<|image_pad|>") > 0

    def test_a_picture_with_nothing_after_it(self, seeing_folder: FolderOf, tmp_path: Path) -> None:
        template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        seeing = with_template(seeing_folder, tmp_path / "model", template)
        assert "put text after it" in refusal(seeing, said(f"what is {HERE}", WIDE)).message
        assert seeing.answer(asked(said(f"what is {HERE}?", WIDE))).text

    def test_messages_that_a_template_wants_as_one_keep_their_pictures(
        self, seeing_folder: FolderOf, tmp_path: Path
    ) -> None:
        """It refuses two messages of a user in a row."""
        own = (seeing_folder("qwen2_vl") / "chat_template.jinja").read_text(encoding="utf-8")
        guard = "{% if not loop.first and loop.previtem.role == m.role %}{{ raise_exception('turns') }}{% endif %}"
        template = own.replace("{% for m in messages %}", "{% for m in messages %}" + guard)
        seeing = with_template(seeing_folder, tmp_path / "model", template)
        request = asked(said(f"a {HERE}", WIDE), said(f"b {HERE} c", WIDE))
        text = seeing.handler._prompts.text(seeing.handler.prepare(request).prompt)
        texts = [piece for piece in text.split("<|image_pad|>") if piece]
        assert [piece.strip() for piece in texts] == [
            "<|im_start|>user\na <|vision_start|>",
            "<|vision_end|>\n\nb <|vision_start|>",
            "<|vision_end|> c<|im_end|>\n<|im_start|>assistant",
        ]


class TestSizes:
    def test_low_detail_takes_fewer_tokens(self, seeing_folder: FolderOf, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(seeing_folder("qwen2_vl"), tmp_path / "model"))
        path = folder / "preprocessor_config.json"
        size = {"max_pixels": 10**7, "size": {"shortest_edge": 784, "longest_edge": 10**7}}
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | size), encoding="utf-8")
        seeing = Seeing(folder)
        image = picture(1120, 560)
        counts = [num_placeholders(seeing, asked(said(f"{HERE}?", image, detail=one))) for one in ("high", "low")]
        # 28 pixels a side for each token.
        assert counts == [40 * 20, 18 * 9]

    def test_a_larger_picture_is_scaled_down_unless_told_not_to(self, seeing_folder: FolderOf) -> None:
        """The model takes 64 tokens of 28 x 28 pixels."""
        large = asked(said(f"{HERE}?", picture(600, 400)))
        fits = asked(said(f"{HERE}?", picture(224, 224)))
        scaling = Seeing(seeing_folder("qwen2_vl"))
        assert num_placeholders(scaling, large) <= 64
        strict = Seeing(seeing_folder("qwen2_vl"), disable_auto_resize=True)
        assert num_placeholders(strict, fits) == 64
        error = refusal(strict, *large.prompt.messages)  # type: ignore[union-attr]
        assert error.param == "messages[0].image[0]"
        assert "600x400" in error.message
        assert "50176 pixels" in error.message

    def test_what_no_longer_fits_is_not_looked_at(self, seeing_folder: FolderOf) -> None:
        small = Seeing(seeing_folder("qwen2_vl"), context_length=40)
        error = refusal(small, said(HERE * 5, *[WIDE] * 4, b"no picture"))
        assert isinstance(error, ContextLengthExceeded)
        assert error.param == "messages"
        assert "at least" in error.message

    def test_pictures_count_against_the_context(self, seeing_folder: FolderOf) -> None:
        small = Seeing(seeing_folder("qwen2_vl"), context_length=40)
        with pytest.raises(ContextLengthExceeded):
            small.handler.prepare(asked(said(f"{HERE}{HERE}", WIDE, WIDE)))

    def test_their_tokens_are_counted(self, seeing: Seeing) -> None:
        request = asked(said(f"{HERE}what?", WIDE))
        told = seeing.handler.prepare(TokenizeRequest(request.prompt))
        assert isinstance(told, Tokenized)
        assert told.tokens == seeing.handler.prepare(request).prompt


def test_colours_and_orientation_are_those_of_the_picture(seeing: Seeing) -> None:
    """A palette, transparency and EXIF's orientation lead to the same tokens as the plain picture."""
    upright = seeing.answer(asked(said(f"{HERE}what?", WIDE))).text
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(WIDE.rotate(90, expand=True), exif=exif)
    assert seeing.answer(asked(said(f"{HERE}what?", turned))).text == upright
    assert seeing.answer(asked(said(f"{HERE}what?", encoded(WIDE.convert("RGBA"))))).text == upright


class TestBlindness:
    def test_a_processor_that_does_not_fit(self, seeing_folder: FolderOf, tmp_path: Path) -> None:
        """It has text answered, and says with each picture why it sees none."""
        folder = Path(shutil.copytree(seeing_folder("gemma3"), tmp_path / "model"))
        (folder / "processor_config.json").write_text(json.dumps({"image_seq_length": 9}), encoding="utf-8")
        seeing = Seeing(folder)
        assert seeing.info.kind == "vlm"
        assert seeing.answer(asked(Message("user", "text"))).text
        error = refusal(seeing, Message("user", "a"), said(f"{HERE}what?", WIDE))
        assert error.param == "messages[1].image[0]"
        assert "text only here" in error.message
        seeing.handler.clear_caches()
