import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from app.core.conversation import Message
from app.core.events import TextDelta
from app.core.output_format import Regex
from app.core.requests import GenerationRequest
from app.handler.vlm.prompt_media import SeenMedia
from tests.fixtures.driving import run
from tests.fixtures.pictures import picture
from tests.fixtures.seeing import HERE, Seeing, asked, said
from tests.fixtures.tiny_vlm import MARKERS, WRITTEN
from tests.fixtures.vlm_library import Library

FolderOf = Callable[[str], Path]
LibraryOf = Callable[[str], Library]

FAMILIES = list(MARKERS)
WIDE, TALL = picture(100, 80), picture(70, 130).rotate(90)


def prompt_of(name: str, *messages: Message) -> str:
    """As the fixture's template has it, written out here."""
    turns: list[str] = []
    for message in messages:
        text = message.content
        for media in reversed(message.media):
            text = text[: media.position] + WRITTEN[media.kind][name] + text[media.position :]
        turns.append(f"<|im_start|>{message.role}\n{text}<|im_end|>\n")
    return "".join([*turns, "<|im_start|>assistant\n"])


@pytest.fixture
def seeing(seeing_folder: FolderOf, request: pytest.FixtureRequest) -> Seeing:
    """Of the family that a test is parametrised with, the first by default."""
    name: str = getattr(request, "param", FAMILIES[0])
    return Seeing(seeing_folder(name))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("text", "images"),
    [
        (f"{HERE}what is it?", [WIDE]),
        (f"what is {HERE}, in a word?", [TALL]),
        (f"{HERE}{HERE} compare", [WIDE, TALL]),
        (f"first {HERE} and then {HERE}, and {HERE} again", [TALL, WIDE, TALL]),
        ("no picture at all", []),
    ],
)
def test_every_token_is_the_librarys(
    name: str, text: str, images: list[Image.Image], seeing_folder: FolderOf, library: LibraryOf
) -> None:
    message = said(text, *images)
    seeing = Seeing(seeing_folder(name))
    answer = seeing.answer(asked(message, max_tokens=24))
    expected = library(name).greedy(prompt_of(name, message), images, 24)
    assert len(expected.text) > 10
    assert (answer.text, answer.usage.prompt_tokens) == (expected.text, expected.prompt_tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_over_several_turns(name: str, seeing_folder: FolderOf, library: LibraryOf) -> None:
    """Every turn is resumed after the one before, no picture is looked at twice, and it says the same as anew."""
    seeing = Seeing(seeing_folder(name), prefill_step_size=7)
    turns: list[Message] = []
    shown: list[Image.Image] = []
    looks, seen = seeing.num_looks, 0
    for message, images in (
        (said(f"see {HERE} here", WIDE), [WIDE]),
        (said(f"and {HERE}?", TALL), [TALL]),
        (Message("user", "which one?"), []),
        (said(f"{HERE} again", WIDE), [WIDE]),
    ):
        turns.append(message)
        shown += images
        answer = seeing.answer(asked(*turns, max_tokens=20))
        assert answer.text == library(name).greedy(prompt_of(name, *turns), shown, 20).text
        # A new picture that has to be fed together with all before it takes everything with it.
        starts_anew = name == "gemma4_whole" and bool(images)
        assert answer.usage.cached_tokens == 0 if starts_anew else answer.usage.cached_tokens >= seen
        seen = answer.usage.prompt_tokens - 1
        # What it says at random may have a marker in it.
        turns.append(Message("assistant", "the quick brown fox"))
    assert seeing.num_looks == looks + 2


@pytest.mark.parametrize("name", FAMILIES)
def test_eight_at_once_are_answered_as_alone(name: str, seeing_folder: FolderOf) -> None:
    requests = [
        asked(said(f"{HERE}what?", WIDE), max_tokens=30),
        asked(Message("user", "only text, and more of it than the others have " * 3), max_tokens=25),
        asked(said(f"a {HERE} and b {HERE}", TALL, WIDE), max_tokens=20),
        asked(said(f"{HERE}what?", TALL), temperature=1.0, seed=7),
        asked(Message("user", "short"), temperature=1.0, seed=8, max_tokens=40),
        asked(said(f"{HERE}what?", WIDE), temperature=1.2, seed=9, presence_penalty=1.0),
        asked(Message("user", "one more"), max_tokens=12),
        replace(asked(said(f"{HERE}twice", TALL), temperature=1.0, seed=3), num_choices=2),
    ]
    together = Seeing(seeing_folder(name), prefill_step_size=16, prompt_cache_bytes=0)
    ids: list[int] = []
    for request in requests:
        ids.append(together.submit(request))
        together.handler.turn()
    run(together.handler.turn)
    alone = Seeing(seeing_folder(name), prompt_cache_bytes=0)
    for request, request_id in zip(requests, ids, strict=True):
        mine = alone.submit(request)
        run(alone.handler.turn)
        texts = [choice.text for choice in alone.log.whole(mine).choices]
        assert [choice.text for choice in together.log.whole(request_id).choices] == texts
        assert all(texts)


class TestCaches:
    def test_the_same_picture_again_costs_no_look(self, seeing: Seeing) -> None:
        """Though nothing of the prompt is the same, not even the file."""
        before = seeing.num_looks
        seeing.answer(asked(said(f"{HERE}what is it?", WIDE)))
        assert seeing.num_looks == before + 1
        answer = seeing.answer(asked(said(f"something else: {HERE}{HERE}", WIDE, WIDE)))
        assert seeing.num_looks == before + 1
        assert answer.usage.cached_tokens == 0

    def test_the_same_prompt_again_is_not_computed(self, seeing: Seeing) -> None:
        request = asked(said(f"{HERE}what is it?", WIDE))
        first, again = seeing.answer(request), seeing.answer(request)
        assert (first.usage.cached_tokens, again.usage.cached_tokens) == (0, first.usage.prompt_tokens - 1)
        assert again.text == first.text

    def test_the_answer_is_kept_behind_its_prompt(self, seeing: Seeing) -> None:
        seeing.answer(asked(said(f"{HERE}what is it?", WIDE)))
        assert seeing.handler.inspect().num_sequences == 1

    @pytest.mark.parametrize("seeing", FAMILIES, indirect=True)
    def test_another_picture_of_the_same_size_shares_nothing(self, seeing: Seeing) -> None:
        long = "the same long beginning of both prompts, word for word " * 2
        one = seeing.answer(asked(said(f"{long}{HERE}what is it?", WIDE)))
        other = seeing.answer(asked(said(f"{long}{HERE}what is it?", WIDE.rotate(180))))
        assert other.usage.prompt_tokens == one.usage.prompt_tokens
        assert other.usage.cached_tokens < one.usage.prompt_tokens - 12
        assert other.text != one.text

    def test_text_before_a_picture_is_shared(self, seeing: Seeing, library: LibraryOf) -> None:
        long = "the same long beginning of both prompts, word for word " * 2
        request = asked(said(f"{long}{HERE}what is it?", TALL))
        seeing.answer(asked(said(f"{long}{HERE}what is it?", WIDE)))
        first_placeholder = seeing.handler.prepare(request).prompt.index(library(FAMILIES[0]).processor.image_token_id)
        assert seeing.answer(request).usage.cached_tokens == first_placeholder

    def test_clearing_forgets_pictures_too(self, seeing: Seeing) -> None:
        request = asked(said(f"{HERE}what is it?", WIDE))
        seeing.answer(request)
        looks = seeing.num_looks
        seeing.handler.clear_caches()
        assert seeing.answer(request).usage.cached_tokens == 0
        assert seeing.num_looks == looks + 1

    @pytest.mark.parametrize("name", ["qwen2_vl", "gemma3"])
    def test_prompts_with_pictures_outlive_the_process(
        self, name: str, seeing_folder: FolderOf, tmp_path: Path
    ) -> None:
        request = asked(said(f"{HERE}what is it?", WIDE))
        first = Seeing(seeing_folder(name), prompt_cache_dir=str(tmp_path))
        told = first.answer(request)
        first.handler.close()
        again = Seeing(seeing_folder(name), prompt_cache_dir=str(tmp_path)).answer(request)
        assert again.usage.cached_tokens == told.usage.prompt_tokens - 1
        assert again.text == told.text


class TestRows:
    def test_a_row_that_comes_back_goes_on_where_it_was(self, seeing_folder: FolderOf) -> None:
        """There is memory for two rows at first, and not when they are longer."""
        requests = [asked(said(f"{HERE}what?", image), max_tokens=400) for image in (WIDE, TALL)]
        alone = [Seeing(seeing_folder("qwen2_vl")).answer(request) for request in requests]
        small = Seeing(seeing_folder("qwen2_vl"), max_kv_bytes=600 * 2 * 4 * 2 * 16 * 4, prompt_cache_bytes=0)
        ids = [small.submit(request) for request in requests]
        run(small.handler.turn)
        assert [small.log.completion(one).text for one in ids] == [one.text for one in alone]

    def test_a_cancelled_prompt_leaves_the_others_alone(self, seeing: Seeing) -> None:
        expected = seeing.answer(asked(said(f"{HERE}what?", TALL))).text
        gone = seeing.submit(asked(said(f"{HERE}what is it?", WIDE)))
        stays = seeing.submit(asked(said(f"{HERE}what?", TALL)))
        seeing.handler.turn()
        seeing.handler.cancel(gone)
        run(seeing.handler.turn)
        assert seeing.log.completion(stays).text == expected
        assert not seeing.log.is_over(gone)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_what_was_read_of_a_picture_is_gone_on_with(self, name: str, seeing_folder: FolderOf) -> None:
        """Cancelled with half of the picture in the cache, where it may be cut."""
        request = asked(said(f"see {HERE} and {HERE} here", WIDE, TALL))
        expected = Seeing(seeing_folder(name)).answer(request)
        num_cached: set[int] = set()
        for num_turns in range(3, 9):
            seeing = Seeing(seeing_folder(name), prefill_step_size=5)
            gone = seeing.submit(request)
            for _ in range(num_turns):
                seeing.handler.turn()
            seeing.handler.cancel(gone)
            answer = seeing.answer(request)
            assert answer.text == expected.text
            num_cached.add(answer.usage.cached_tokens)
        assert len(num_cached) > 1

    def test_a_picture_that_breaks_the_model_harms_its_own_request_only(self, seeing: Seeing) -> None:
        request = asked(said(f"{HERE}what?", TALL))
        expected = seeing.answer(request).text
        broken = seeing.handler.prepare(asked(said(f"{HERE}what is it?", WIDE)))
        assert isinstance(broken.pictures, SeenMedia)
        broken.pictures._media[0].shown.inputs["pixel_values"] = np.zeros((1, 1), np.float32)
        seeing.handler.submit(1000, broken)
        sound = seeing.submit(request)
        run(seeing.handler.turn)
        assert seeing.log.failure(1000).error == "InternalError"
        assert seeing.log.completion(sound).text == expected

    def test_log_probabilities_of_an_answer_to_a_picture(self, seeing: Seeing) -> None:
        request: GenerationRequest = replace(asked(said(f"{HERE}what?", WIDE), max_tokens=6), top_logprobs=2)
        request_id = seeing.submit(request)
        run(seeing.handler.turn)
        deltas = [event for event in seeing.log.events[request_id] if isinstance(event, TextDelta)]
        told = [one for delta in deltas for one in delta.logprobs or []]
        assert len(told) == 6
        # It is greedy: the token is the likeliest.
        assert all(one.logprob == one.top[0].logprob for one in told)

    def test_what_is_guessed_ahead_is_checked_where_the_picture_moved_it(
        self, seeing_folder: FolderOf, tmp_path: Path
    ) -> None:
        """The same model without its eyes guesses, right only where the picture does not matter."""
        folder = seeing_folder("qwen2_vl")
        draft = shutil.copytree(folder, tmp_path / "draft")
        for text, images in ((f"{HERE}what?", [WIDE]), ("only text", [])):
            request = asked(said(text, *images), max_tokens=24)
            plain = Seeing(folder).answer(request)
            assert Seeing(folder, draft_model_path=str(draft)).answer(request).text == plain.text

    def test_what_is_forced_is_fed_where_the_picture_moved_it(self, seeing: Seeing) -> None:
        """A word is fed at once that is drawn token by token in company."""
        form = Regex("(yes|no), the quick brown fox jumps over the lazy dog( and | or )(more|less)")
        request = replace(asked(said(f"{HERE}what?", WIDE), max_tokens=60), output_format=form)
        alone = seeing.answer(request).text
        ids = [seeing.submit(request), seeing.submit(asked(said(f"{HERE}what?", TALL), max_tokens=60))]
        run(seeing.handler.turn)
        assert seeing.log.completion(ids[0]).text == alone
        assert "fox" in alone


def test_what_a_model_says_of_itself(seeing: Seeing) -> None:
    assert (seeing.info.kind, seeing.info.architecture, seeing.info.context_length) == ("vlm", "qwen2_vl", 2048)
