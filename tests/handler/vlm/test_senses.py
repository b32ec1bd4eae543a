"""Films and recordings in prompts, alone and among pictures."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from app.core.conversation import MediaKind, Message
from app.errors import InvalidRequest
from app.handler.film import Film, FilmSampling, read_film
from app.handler.recording import read_recording
from app.handler.vlm.processor import MediaProcessor, load_media_processor
from tests.fixtures import films, sound
from tests.fixtures.driving import run
from tests.fixtures.pictures import encoded, picture
from tests.fixtures.seeing import HERE, Seeing, asked, said
from tests.fixtures.tiny_vlm import FILM_MARKERS, MARKERS, SOUND_MARKERS
from tests.fixtures.vlm_library import Library
from tests.handler.vlm.test_handler import prompt_of

FolderOf = Callable[[str], Path]
LibraryOf = Callable[[str], Library]

WIDE = picture(100, 80)
FILM, OTHER_FILM = films.film(films.frames(12)), films.film(films.frames(6, turn=90), "webm", "libvpx")
SOUND, OTHER_SOUND = sound.wav(sound.whistle(1.3)), sound.encode(sound.whistle(0.7), "mp3", "libmp3lame")
AS_FRAMES = [name for name in MARKERS if name not in FILM_MARKERS]


def video(data: bytes) -> tuple[MediaKind, bytes]:
    return "video", data


def audio(data: bytes) -> tuple[MediaKind, bytes]:
    return "audio", data


def decoded(data: bytes, name: str) -> Film:
    """As the family is to be shown it: two frames a second, four at least, six for the small Gemma 4."""
    return read_film(data, FilmSampling(2.0, 4, 6 if name.startswith("gemma4") else 16), 10**7, "film")


def samples(data: bytes) -> sound.Samples:
    return read_recording(data, 16_000, 30)


def refusal(seeing: Seeing, message: Message) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        seeing.handler.prepare(asked(message))
    return caught.value


class TestTokensAreTheLibrarys:
    @pytest.mark.parametrize("name", list(FILM_MARKERS))
    @pytest.mark.parametrize(
        ("text", "files"), [(f"see {HERE} here", [FILM]), (f"{HERE} and then {HERE}?", [OTHER_FILM, FILM])]
    )
    def test_films(self, name: str, text: str, files: list[bytes], seeing_folder: FolderOf, library: LibraryOf) -> None:
        if name.startswith("gemma4") and len(files) > 1:
            # Of several films the library's processor takes only those of one length.
            files = [FILM, films.film(films.frames(12, turn=45))]
        message = said(text, *map(video, files))
        answer = Seeing(seeing_folder(name), prefill_step_size=50).answer(asked(message, max_tokens=24))
        expected = library(name).greedy(prompt_of(name, message), [], 24, [decoded(one, name) for one in files])
        assert (answer.text, answer.usage.prompt_tokens) == (expected.text, expected.prompt_tokens)

    @pytest.mark.parametrize("name", list(SOUND_MARKERS))
    @pytest.mark.parametrize("file", [SOUND, OTHER_SOUND])
    def test_recordings(self, name: str, file: bytes, seeing_folder: FolderOf, library: LibraryOf) -> None:
        message = said(f"hear {HERE} here", audio(file))
        answer = Seeing(seeing_folder(name), prefill_step_size=20).answer(asked(message, max_tokens=24))
        expected = library(name).greedy(prompt_of(name, message), [], 24, sound=samples(file))
        assert (answer.text, answer.usage.prompt_tokens) == (expected.text, expected.prompt_tokens)

    @pytest.mark.parametrize("name", ["qwen3_vl", "gemma4"])
    def test_pictures_films_and_recordings_in_one_prompt(
        self, name: str, seeing_folder: FolderOf, library: LibraryOf
    ) -> None:
        hears = name in SOUND_MARKERS
        text = f"{HERE} and {HERE} then {HERE}?" if hears else f"{HERE} and {HERE}?"
        message = said(text, *([audio(SOUND)] if hears else []), video(FILM), WIDE)
        answer = Seeing(seeing_folder(name)).answer(asked(message, max_tokens=24))
        heard = samples(SOUND) if hears else None
        expected = library(name).greedy(prompt_of(name, message), [WIDE], 24, [decoded(FILM, name)], heard)
        assert (answer.text, answer.usage.prompt_tokens) == (expected.text, expected.prompt_tokens)

    @pytest.mark.parametrize("name", AS_FRAMES)
    def test_films_for_models_that_take_none(self, name: str, seeing_folder: FolderOf, library: LibraryOf) -> None:
        """Are pictures, one after the other."""
        frames = [Image.fromarray(frame.transpose(1, 2, 0)) for frame in decoded(FILM, name).frames]
        answer = Seeing(seeing_folder(name)).answer(asked(said(f"see {HERE} here", video(FILM)), max_tokens=24))
        shown = said(f"see {HERE * len(frames)} here", *frames)
        expected = library(name).greedy(prompt_of(name, shown), frames, 24)
        assert len(frames) == 6
        assert (answer.text, answer.usage.prompt_tokens) == (expected.text, expected.prompt_tokens)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "gemma4_whole", "smolvlm"])
def test_all_at_once_are_answered_as_alone(name: str, seeing_folder: FolderOf) -> None:
    messages = [
        said(f"{HERE}what?", video(FILM)),
        Message("user", "only text"),
        said(f"see {HERE} and {HERE}", video(OTHER_FILM), WIDE),
        said(f"{HERE}what?", WIDE),
    ]
    if name in SOUND_MARKERS:
        messages += [said(f"{HERE}what?", audio(SOUND)), said(f"{HERE} or {HERE}?", audio(OTHER_SOUND), video(FILM))]
    together = Seeing(seeing_folder(name), prefill_step_size=16, prompt_cache_bytes=0)
    ids = [together.submit(asked(message, max_tokens=20)) for message in messages]
    run(together.handler.turn)
    alone = Seeing(seeing_folder(name), prompt_cache_bytes=0)
    texts = [alone.answer(asked(message, max_tokens=20)).text for message in messages]
    assert [together.log.completion(one).text for one in ids] == texts
    assert len(set(texts)) == len(texts)


class TestCaches:
    @pytest.mark.parametrize(("name", "medium"), [("qwen3_vl", video(FILM)), ("gemma4", audio(SOUND))])
    def test_the_same_again_costs_nothing(
        self, name: str, medium: tuple[MediaKind, bytes], seeing_folder: FolderOf
    ) -> None:
        seeing = Seeing(seeing_folder(name))
        request = asked(said(f"{HERE}what?", medium))
        first = seeing.answer(request)
        assert seeing.num_looks == 1
        again = seeing.answer(request)
        assert (again.text, again.usage.cached_tokens) == (first.text, first.usage.prompt_tokens - 1)
        seeing.answer(asked(said(f"something else: {HERE}?", medium)))
        stats = seeing.handler.inspect()
        assert (stats.media_lookups, stats.media_hits, stats.num_media) == (2, 1, 1)
        assert 0 < stats.media_bytes < stats.media_max_bytes
        seeing.handler.clear_caches()
        assert (seeing.handler.inspect().num_media, seeing.handler.inspect().media_bytes) == (0, 0)
        assert seeing.answer(request).text == first.text
        assert seeing.num_looks == 2

    def test_films_that_differ_in_their_times_only(self, seeing_folder: FolderOf, library: LibraryOf) -> None:
        """Their frames are the same, and what stands between them is not."""
        seeing = Seeing(seeing_folder("qwen3_vl"))
        for rate in (2, 1):
            file = films.film(films.frames(4), rate=rate)
            message = said(f"see {HERE} here", video(file))
            film = decoded(file, "qwen3_vl")
            assert film.places == [0, 1, 2, 3]
            expected = library("qwen3_vl").greedy(prompt_of("qwen3_vl", message), [], 24, [film])
            assert seeing.answer(asked(message, max_tokens=24)).text == expected.text
        assert seeing.num_looks == 2

    def test_a_film_as_film_and_as_recording(self, seeing_folder: FolderOf) -> None:
        """Which are two things of one file."""
        file = sound.encode(sound.whistle(0.5), "mp4", "aac", has_video=True)
        seeing = Seeing(seeing_folder("gemma4"))
        seen, heard = (seeing.answer(asked(said(f"{HERE}what?", (kind, file)))) for kind in ("video", "audio"))
        assert seen.usage.prompt_tokens > heard.usage.prompt_tokens
        assert seen.text != heard.text


class TestRefusals:
    @pytest.mark.parametrize(
        ("medium", "word"),
        [
            (video(b""), "is empty"),
            (video(FILM[:500]), "no film"),
            (video(SOUND), "no video track"),
            (video(encoded(WIDE)), "no film"),
            (audio(b""), "is empty"),
            (audio(SOUND[:2000]), "cut off"),
            (audio(FILM), "no audio track"),
            (audio(sound.wav(sound.whistle(30.5))), "longer than the 30 s"),
            (audio(sound.wav(sound.whistle(0.02))), "too short"),
        ],
    )
    def test_a_file_that_is_wrong(self, medium: tuple[MediaKind, bytes], word: str, seeing_folder: FolderOf) -> None:
        seeing = Seeing(seeing_folder("gemma4"))
        error = refusal(seeing, said(f"{HERE} and {HERE}?", WIDE, medium))
        assert error.param == f"messages[0].{medium[0]}[1]"
        assert word in error.message
        assert seeing.answer(asked(said(f"{HERE}what?", WIDE))).text

    @pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm"])
    def test_a_model_that_hears_nothing(self, name: str, seeing_folder: FolderOf) -> None:
        seeing = Seeing(seeing_folder(name))
        error = refusal(seeing, said(f"{HERE}what?", audio(SOUND)))
        assert (error.param, "no audio token" in error.message) == ("messages[0].audio[0]", True)
        assert seeing.info.senses == ("image", "video")

    def test_a_model_without_its_ears(self, seeing_folder: FolderOf, tmp_path: Path) -> None:
        """Its processor takes recordings, and the model would go on as if there were none."""
        folder = Path(shutil.copytree(seeing_folder("gemma4"), tmp_path / "model"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"audio_config": None}), encoding="utf-8")
        seeing = Seeing(folder)
        assert seeing.info.senses == ("image", "video")
        assert "takes no notice" in refusal(seeing, said(f"{HERE}what?", audio(SOUND))).message

    def test_a_text_that_spells_what_marks_another_kind(self, seeing_folder: FolderOf) -> None:
        seeing = Seeing(seeing_folder("gemma4"))
        assert "'<|audio|>'" in refusal(seeing, said(f"<|audio|> {HERE}?", WIDE)).message
        assert "'<|video|>'" in refusal(seeing, said(f"{HERE} <|video|>?", WIDE)).message


def test_what_a_model_takes(seeing_folder: FolderOf) -> None:
    assert Seeing(seeing_folder("gemma4")).info.senses == ("image", "video", "audio")


def test_a_processor_that_does_not_name_its_token(seeing_folder: FolderOf) -> None:
    """What a film is written with is then taken from the tokenizer."""
    folder = seeing_folder("qwen3_vl")
    processor = load_media_processor(folder, "qwen3_vl", trusts_code=False)
    token = json.loads((folder / "config.json").read_text(encoding="utf-8"))["video_token_id"]
    named = MediaProcessor(processor).markers("video", token)
    del processor.video_token
    assert MediaProcessor(processor).markers("video", token) == named
    assert len(named) == 2


def test_no_medium_begins_the_text_anew(seeing_folder: FolderOf, tmp_path: Path) -> None:
    """Where the tokenizer begins every text with a token of its own."""
    folder = Path(shutil.copytree(seeing_folder("gemma3"), tmp_path / "model"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin = tokenizer.token_to_id("<|im_start|>")
    special = [("<|im_start|>", begin)]
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    message = said(f"see {HERE} here", WIDE)
    expected, prompt = (Seeing(one).handler.prepare(asked(message)).prompt for one in (seeing_folder("gemma3"), folder))
    assert prompt == expected
