"""Our windows against `mlx_whisper.transcribe`, which goes through a recording in one call."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_whisper.tokenizer import get_tokenizer

from app.core.events import Event, Segment, Started, TextDelta, Transcribed
from app.core.requests import TranscriptionRequest
from app.handler.whisper.transcription import PreparedTranscription, Transcription, load
from tests.fixtures import tiny_whisper
from tests.fixtures.sound import Samples, whistle
from tests.fixtures.tiny_whisper import ENGLISH_ONLY, Shape
from tests.fixtures.whisper_reference import result_of, transcribe

# No window is heard twice, so that a test is quick.
CALM: dict[str, Any] = {"compression_ratio_threshold": 100.0, "logprob_threshold": -100.0}
# Every window is heard at every temperature.
NEVER_RIGHT: dict[str, Any] = {"compression_ratio_threshold": -1.0, "no_speech_threshold": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_whisper.write(tmp_path_factory.mktemp("models") / "whisper")


def steps_of(
    folder: Path,
    samples: Samples,
    language: str | None = None,
    prompt: str | None = None,
    dtype: mx.Dtype = mx.float32,
    **asked: Any,
) -> list[list[Event]]:
    """What each step of a transcription gives."""
    model = load(folder, dtype)
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    tokens = tokenizer.encode(" " + prompt) if prompt else []
    prepared = PreparedTranscription(samples, tokens, language, TranscriptionRequest(b"", **asked))
    return list(Transcription(model, dtype, prepared).steps())


def events_of(folder: Path, samples: Samples, **asked: Any) -> list[Event]:
    return [event for step in steps_of(folder, samples, **asked) for event in step]


@pytest.mark.parametrize(
    ("seconds", "asked", "options"),
    [
        (47, {**CALM}, {**CALM}),
        (47, {**CALM, "has_words": True, "language": "de"}, {**CALM, "word_timestamps": True, "language": "de"}),
        (
            31,
            {**CALM, "prompt": "Names: Krapp, Hamm.", "language": "fr", "condition_on_previous_text": False},
            {**CALM, "initial_prompt": "Names: Krapp, Hamm.", "language": "fr", "condition_on_previous_text": False},
        ),
        (
            31,
            {**CALM, "into_english": True, "language": "ja", "clip": (3.5, 9.25)},
            {**CALM, "task": "translate", "language": "ja", "clip_timestamps": "3.5,9.25"},
        ),
        (31, {**CALM, "language": "en", "clip": (29.5, None)}, {**CALM, "language": "en", "clip_timestamps": "29.5"}),
        (8, {**NEVER_RIGHT, "language": "en"}, {**NEVER_RIGHT, "language": "en"}),
        (
            8,
            {"language": "en", "temperature": 0.6, "best_of": 2, "has_words": True},
            {"language": "en", "temperature": 0.6, "best_of": 2, "word_timestamps": True},
        ),
        (0.1, {**CALM, "has_words": True}, {**CALM, "word_timestamps": True}),
    ],
    ids=["plain", "words", "prompt", "translated clip", "clip to the end", "fallback", "drawn", "very short"],
)
def test_the_result_is_mlx_whispers(folder: Path, seconds: float, asked: Any, options: Any) -> None:
    samples = whistle(seconds)
    mx.random.seed(7)
    expected = transcribe(folder, samples, **options)
    mx.random.seed(7)
    assert result_of(events_of(folder, samples, **asked)) == expected
    assert expected["segments"]


@pytest.mark.parametrize(("seed", "seconds"), [(0, 6), (1, 6), (2, 10), (5, 3)])
def test_every_way_to_cut_a_window_is_mlx_whispers(tmp_path: Path, seed: int, seconds: int) -> None:
    folder = tiny_whisper.write(tmp_path / "whisper", Shape(seed=seed))
    samples = whistle(seconds, seed)
    expected = transcribe(folder, samples, language="en", word_timestamps=True, **CALM)
    assert result_of(events_of(folder, samples, language="en", has_words=True, **CALM)) == expected


def test_an_english_model_and_half_precision(tmp_path: Path) -> None:
    folder = tiny_whisper.write(tmp_path / "whisper", Shape(num_tokens=ENGLISH_ONLY))
    samples = whistle(12)
    expected = transcribe(folder, samples, mx.float16, **CALM)
    assert result_of(events_of(folder, samples, dtype=mx.float16, **CALM)) == expected
    assert expected["language"] == "en"


def test_silence_is_skipped(folder: Path) -> None:
    strict: dict[str, Any] = {"no_speech_threshold": -1.0, "logprob_threshold": 100.0}
    events = events_of(folder, whistle(31), language="en", **strict)
    assert result_of(events) == transcribe(folder, whistle(31), language="en", **strict)
    assert not any(isinstance(event, Segment | TextDelta) for event in events)


def test_a_long_recording_is_heard_in_steps(folder: Path) -> None:
    steps = steps_of(folder, whistle(65), language="en", **CALM)
    assert isinstance(steps[0][0], Started)
    heard = [{event.seek for event in step if isinstance(event, Segment)} for step in steps]
    # No step hears more than one window, and there are several.
    assert all(len(seeks) <= 1 for seeks in heard)
    assert sum(map(len, heard)) >= 3
    assert isinstance(steps[-1][-1], Transcribed)
    assert not any(isinstance(event, Transcribed) for step in steps[:-1] for event in step)


def test_each_attempt_is_a_step(folder: Path) -> None:
    steps = steps_of(folder, whistle(8), language="en", **NEVER_RIGHT)
    # The beginning, five attempts that fail, and the one that counts; what was drawn says whether more windows follow.
    first = next(number for number, step in enumerate(steps) if any(isinstance(event, Segment) for event in step))
    assert first == 1 + 5
    assert {event.temperature for step in steps for event in step if isinstance(event, Segment)} == {1.0}


def test_usage_counts_positions_prompt_and_text(folder: Path) -> None:
    events = events_of(folder, whistle(8), language="en", prompt="Krapp", **CALM)
    prompt_tokens = len(get_tokenizer(multilingual=True).encode(" Krapp"))
    end = events[-1]
    assert isinstance(end, Transcribed)
    assert end.usage.prompt_tokens == 8 * 50 + prompt_tokens
    assert end.usage.completion_tokens == sum(len(event.tokens) for event in events if isinstance(event, Segment)) > 0
    assert (end.language, end.duration_s) == ("english", 8.0)


def test_a_window_that_leads_nowhere_is_left(tmp_path: Path) -> None:
    # Every segment ends where the window begins: mlx_whisper would hear the first window for ever.
    tokenizer = get_tokenizer(multilingual=True)
    likely = {tokenizer.timestamp_begin: 30.0, tokenizer.encode(" fail")[0]: 20.0}
    folder = tiny_whisper.write(tmp_path / "whisper", likely=likely)
    steps = steps_of(folder, whistle(33), language="en", **CALM)
    heard = [[event for event in step if isinstance(event, Segment)] for step in steps]
    windows = [segments[0].seek for segments in heard if segments]
    assert windows == [0, 0, 0, 3000, 3000, 3000]
    assert isinstance(steps[-1][-1], Transcribed)


def test_the_text_is_that_of_all_tokens_together(tmp_path: Path) -> None:
    # Half a character again and again, over two windows.
    tokenizer = get_tokenizer(multilingual=True)
    half = tokenizer.encode("\N{GRINNING FACE}")[0]
    folder = tiny_whisper.write(tmp_path / "whisper", likely={half: 30.0})
    expected = transcribe(folder, whistle(31), language="en", **CALM)
    assert result_of(events_of(folder, whistle(31), language="en", **CALM)) == expected
    assert expected["text"] == "\ufffd" * len(expected["text"])
    assert len(expected["segments"]) == 2
