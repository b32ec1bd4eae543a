"""The shape of the mouth for each phoneme, by the numbers of Microsoft's visemes.

Source: https://learn.microsoft.com/azure/ai-services/speech-service/how-to-speech-synthesis-viseme
"""

from collections.abc import Mapping
from typing import Final

SILENCE: Final = 0
# Kokoro writes a diphthong as one capital: A is the eɪ of "day", I aɪ, O oʊ, Q əʊ, W aʊ, Y ɔɪ; T is a flapped t.
_PHONEMES: Final = (
    *((1, "æaəʌɐᵊᵻɤ"), (2, "ɑɒ"), (3, "ɔ"), (4, "ɛeAʊøœ"), (5, "ɜɚɝ"), (6, "jiɪyɨ"), (7, "wuɯʍɰɥ")),
    *((8, "oOQ"), (9, "W"), (10, "Y"), (11, "I"), (12, "hɦħx"), (13, "ɹrɾʁɻɽ"), (14, "lʎɬɫ")),
    *((15, "szʦʣS"), (16, "ʃʧʤʒʂɕʥʨʝç"), (17, "ð"), (18, "fvʋ"), (19, "dtnθTɖʈɳɲ"), (20, "kɡgŋɣχqɴʔc"), (21, "pbmɸβɱ")),
)
_VISEMES: Final[Mapping[str, int]] = {symbol: viseme for viseme, symbols in _PHONEMES for symbol in symbols}


def viseme_of(phoneme: str) -> int:
    """The number for a phoneme, with or without its stress and length; silence for what is none."""
    return next((viseme for symbol in phoneme if (viseme := _VISEMES.get(symbol)) is not None), SILENCE)
