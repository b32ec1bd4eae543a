"""The voices in a model's folder, and the languages that are spoken here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from app.core.events import Voice
from app.errors import InvalidRequest, ModelLoadError

# The first letter of a voice of Kokoro is its language, the second its sex.
_LANGUAGES: Final = {
    "a": "en-US",
    "b": "en-GB",
    "e": "es-ES",
    "f": "fr-FR",
    "h": "hi-IN",
    "i": "it-IT",
    "j": "ja-JP",
    "p": "pt-BR",
    "z": "zh-CN",
}
_GENDERS: Final[Mapping[str, Literal["female", "male"]]] = {"f": "female", "m": "male"}
_FAVOURITE: Final = "af_heart"
English = Literal["en-US", "en-GB"]
# In the letters of Kokoro, too.
_ENGLISH: Final[Mapping[str, English]] = {
    "en": "en-US",
    "en-us": "en-US",
    "a": "en-US",
    "en-gb": "en-GB",
    "b": "en-GB",
}


def read_voices(folder: Path) -> list[Voice]:
    """The voices in a folder, by name. Errors: ModelLoadError when there are none."""
    names = sorted(path.stem for path in (folder / "voices").glob("*.safetensors"))
    if not names:
        raise ModelLoadError(f"'{folder}' has no voices; put a model's voices/*.safetensors there, too.")
    return [_voice(name) for name in names]


def choose_voice(voices: list[Voice], name: str | None) -> Voice:
    """The voice of that name, or whose name it is without its first letters, as alloy for af_alloy.

    Errors: InvalidRequest naming the voices there are.
    """
    if name is None:
        english = (voice for voice in voices if voice.language in _ENGLISH.values())
        return next((voice for voice in voices if voice.id == _FAVOURITE), None) or next(english, voices[0])
    alike = [voice for voice in voices if voice.id.partition("_")[2] == name]
    chosen = next((voice for voice in voices if voice.id == name), None) or (alike[0] if len(alike) == 1 else None)
    if chosen is None:
        known = ", ".join(voice.id for voice in voices)
        raise InvalidRequest(f"There is no voice '{name}'; this model has {known}.", param="voice")
    return chosen


def choose_language(asked: str | None, voice: Voice) -> English:
    """The language that is asked for, else the voice's. Errors: InvalidRequest for those that are not spoken here."""
    if asked is not None:
        if language := _ENGLISH.get(asked.lower().replace("_", "-")):
            return language
        raise InvalidRequest(f"'{asked}' is no language that this server speaks: en-US and en-GB.", param="language")
    if voice.language is None or voice.language == "en-US":
        return "en-US"
    if voice.language == "en-GB":
        return "en-GB"
    raise InvalidRequest(
        f"'{voice.id}' speaks {voice.language}, which this server cannot; name another voice, or set 'language' to "
        "en-US or en-GB to hear English in this one.",
        param="voice",
    )


def _voice(name: str) -> Voice:
    code = name.partition("_")[0]
    if len(code) != 2:
        return Voice(name, None, None)
    return Voice(name, _LANGUAGES.get(code[0]), _GENDERS.get(code[1]))
