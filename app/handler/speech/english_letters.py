"""How an English word that no dictionary has is probably said: letters to phonemes by rule, and a place for the stress.

The rules are the usual ones of English spelling, in the manner of Elovitz et al., "Letter-to-Sound Rules for Automatic
Translation of English Text to Phonetics" (1976), in the American phonemes of Kokoro.
"""

import re
from typing import Final

VOWELS: Final = frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ")
# A consonant between this vowel and an ending that begins with e or i: the vowel has its own name.
_NAMED: Final = "(?=[^aeiouwxyr](?:e[sd]?|ers?|ings?)$)"
_CLOSED: Final = "(?=[^aeiouy]|$)"

# For each letter, spellings that begin with it, the first that fits counts; lookarounds see the whole word.
_SPELLINGS: Final = {
    "a": (
        *(("aught", "ɔt"), ("augh", "æf"), ("a[uw]", "ɔ"), ("air|are$", "ɛɹ"), ("a[iy]", "A"), ("arr", "æɹ")),
        *((f"ar{_CLOSED}", "ɑɹ"), ("a(?=l[kl])", "ɔ"), ("alm", "ɑm"), ("(?<=w)a(?=[^aeioukgx])", "ɑ")),
        *(("ation", "Aʃən"), ("(?<=..[^aeiou])age$", "ɪʤ"), (f"a{_NAMED}", "A"), ("ae", "i"), ("a(?=[sn]te$)", "A")),
        *(
            ("a$", "ə"),
            ("a(?=[^aeiouwxyr]i[aou])", "A"),
            ("(?<=..)al$", "əl"),
            ("(?<=..)able(?=s?$)", "əbᵊl"),
            ("(?<=..)ary$", "ɛɹi"),
            ("(?<=..)a(?=n(ce|t)?$)", "ə"),
        ),
        ("a", "æ"),
    ),
    "b": (("bb?", "b"),),
    "c": (
        *(("ch(?=[rl])", "k"), ("ch", "ʧ"), ("ck", "k"), ("cc(?=[eiy])", "ks"), ("ci(?=[ao]|ent)", "ʃ")),
        *(("c(?=[eiy])", "s"), ("cc?", "k")),
    ),
    "d": (("dge?(?=[eiy]|$)", "ʤ"), ("dd?", "d")),
    "e": (
        *(("eau", "O"), ("eigh", "A"), ("ee", "i"), ("ea(?=d$|th|l th|sur)", "ɛ"), ("ear(?=[^aeiouy])", "ɜɹ")),
        *(("ea?er|ear", "ɪɹ"), ("ea", "i"), ("(?<=c)ei", "i"), ("ei", "I"), ("(?<=[rljs])e[uw]", "u"), ("e[uw]", "ju")),
        *(("ey$", "i"), ("ey", "A"), ("err", "ɛɹ"), (f"(?<=..)er{_CLOSED}", "əɹ"), (f"er{_CLOSED}", "ɜɹ")),
        *(("(?<=[cgsxz])es$", "ᵻz"), ("(?<=[sc]h)es$", "ᵻz"), ("(?<=[^aeiou])es$", "z"), ("(?<=[td])ed$", "ᵻd")),
        *(
            ("(?<=[pkfsc])ed$", "t"),
            ("(?<=[^aeiou])ed$", "d"),
            ("(?<=[aeiouy][^aeiou])e(?=ly$|ments?$|ness|less|ful)", ""),
        ),
        *(("(?<=..)e$", ""), (f"e{_NAMED}", "i"), ("(?<=..)e(?=n$|nt$|nce$|l$)", "ə"), ("e$", "i")),
        ("e", "ɛ"),
    ),
    "f": (("ff?", "f"),),
    "g": (
        *(("gh(?=$|t)", ""), ("gh", "ɡ"), ("^gn|gn(?=$|s$|ed$|ing)", "n"), ("gg", "ɡ"), ("gu(?=[ei])", "ɡ")),
        *(("g(?=[eiy])", "ʤ"), ("g", "ɡ")),
    ),
    "h": (("(?<=[aeiou])h(?![aeiouy])", ""), ("(?<=[rgk])h", ""), ("h", "h")),
    "i": (
        *(("igh", "I"), ("ign$", "In"), ("i(?=nd$|ld$)", "I"), ("(?<=..)ies$", "iz"), ("(?<=..)ie[rd]$", "iəɹ")),
        *(
            ("(?<=..)ie$", "i"),
            ("ie", "i"),
            ("ire$", "Iəɹ"),
            ("(?<=..)ive(?=ly$|s?$)", "ɪv"),
            ("i(?=[sz]m|st)", "ɪ"),
            (f"ir{_CLOSED}", "ɜɹ"),
            ("ique$", "ik"),
            ("i[sz]e", "Iz"),
        ),
        *((f"i{_NAMED}", "I"), ("ia", "iə"), ("ious$", "iəs"), ("i(?=[aou])", "i"), ("i$", "i"), ("i", "ɪ")),
    ),
    "j": (("j", "ʤ"),),
    "k": (("^kn", "n"), ("kk?", "k")),
    "l": (("(?<=[bcdfgkptzs])le(?=s?$)", "ᵊl"), ("ll?", "l")),
    "m": (("m[bn]$", "m"), ("mm?", "m")),
    "n": (
        *(("ng(?=$|s$|ed$|ing|[^aeiouylr])", "ŋ"), ("ng(?=[ei])", "nʤ"), ("ng", "ŋɡ"), ("n(?=[kqx]|c[^eiyh])", "ŋ")),
        ("nn?", "n"),
    ),
    "o": (
        *(("oa", "O"), ("oo(?=k)", "ʊ"), ("oor", "ɔɹ"), ("oo", "u"), ("ought", "ɔt"), ("ough", "O"), ("o[iy]", "Y")),
        *(("oul", "Ol"), ("(?<=..)ous", "əs"), ("our", "ɔɹ"), ("ou", "W"), ("ow$", "O"), ("ow(?=[nld]|er)", "W")),
        *(("ow", "O"), ("(?<=..)or$", "əɹ"), (f"ore?{_CLOSED}", "ɔɹ"), (f"o{_NAMED}", "O"), ("o(?=l[dlt]|st$)", "O")),
        *(("(?<=..)on$", "ən"), ("oe?s?$", "O"), ("o(?=[^aeiouwxy][aiou])", "O"), ("o", "ɑ")),
    ),
    "p": (("ph", "f"), ("^p(?=[ns])", ""), ("pp?", "p")),
    "q": (("que$", "k"), ("qu", "kw"), ("q", "k")),
    "r": (("rr?", "ɹ"),),
    "s": (
        *(("ssion", "ʃən"), ("(?<=[aeiou])sion", "ʒən"), ("sion", "ʃən"), ("(?<=[aeiou])sure", "ʒəɹ"), ("sch", "ʃ")),
        *(("sh", "ʃ"), ("sc(?=[eiy])", "s"), ("ss", "s"), ("sm$", "zəm"), ("(?<=[aeiou])s(?=[aeiou])", "z")),
        *(("(?<=[bdgvlmnrweo])s$", "z"), ("s", "s")),
    ),
    "t": (
        *(("tion", "ʃən"), ("tious", "ʃəs"), ("ti(?=a|en)", "ʃ"), ("ture", "ʧəɹ"), ("tch", "ʧ"), ("th(?=er|e$)", "ð")),
        *(("th", "θ"), ("tt?", "t")),
    ),
    "u": (
        *(("uy", "I"), ("(?<=[rljs])ue$", "u"), ("ue$", "ju"), ("ui", "u"), (f"ur{_CLOSED}", "ɜɹ"), ("ure$", "jʊɹ")),
        *((f"(?<=[rljscdtn])u{_NAMED}", "u"), (f"u{_NAMED}", "ju"), ("(?<=g)u(?=[aeio])", "w"), ("^u(?=ni)", "ju")),
        *(("(?<=..)u(?=[lms]$)", "ə"), ("(?<=[rljsdtn])u(?=[^aeiouy][aeiou])", "u"), ("u(?=[^aeiouy][aeiou])", "ju")),
        *(("u$", "u"), ("u", "ʌ")),
    ),
    "v": (("vv?", "v"),),
    "w": (("^wr", "ɹ"), ("wh?", "w")),
    "x": (("^x", "z"), ("x", "ks")),
    "y": (("^y|y(?=[aeou])", "j"), ("(?<=..)y$", "i"), ("y$", "I"), ("y(?=[^aeiouy]e)", "I"), ("y", "ɪ")),
    "z": (("zz?", "z"),),
}
_RULES: Final = {
    letter: tuple((re.compile(spelling), phonemes) for spelling, phonemes in spellings)
    for letter, spellings in _SPELLINGS.items()
}
# Endings that have the stress on the syllable before them.
_STRESS_BEFORE: Final = re.compile("(?:[ts]ions?|ics?|ical|ical?ly|ity|ian|ious|ial|ify|ographys?|ology|ia)$")
# English in Britain, from the sounds that differ.
_BRITISH: Final = (
    *(("ɜɹ", "ɜː"), ("ɑɹ", "ɑː"), ("ɔɹ", "ɔː"), ("ɛɹ", "ɛː"), ("əɹ", "ə"), ("ɪɹ", "ɪə"), ("ʊɹ", "ʊə"), ("i", "iː")),
    *(("u", "uː"), ("ɑ", "ɒ"), ("ɒː", "ɑː"), ("ɔ(?!ː)", "ɔː"), ("æ", "a"), ("O", "Q"), ("ᵻ", "ɪ")),
)


def sound_out(word: str, *, is_british: bool = False) -> str:
    """The probable phonemes of a word in the letters a to z; empty only for an empty word."""
    phonemes = ""
    at = 0
    while at < len(word):
        for pattern, said in _RULES[word[at]]:
            if found := pattern.match(word, at):
                phonemes += said
                at = found.end()
                break
    phonemes = _stressed(phonemes, word)
    if is_british:
        for american, british in _BRITISH:
            # Britons say an r only before a vowel.
            pattern = f"{american}(?![{''.join(sorted(VOWELS))}])" if american.endswith("ɹ") else american
            phonemes = re.sub(pattern, british, phonemes)
    return phonemes


def _stressed(phonemes: str, word: str) -> str:
    """The phonemes with a mark before the vowel that is probably the loudest."""
    places = [place for place, phoneme in enumerate(phonemes) if phoneme in VOWELS]
    full = [place for place in places if phonemes[place] not in "əᵻ"] or places
    if not places:
        return phonemes
    if _STRESS_BEFORE.search(word) and len(places) > 1:
        num_after = 2 if re.search("(?:ity|ical|ify|ia[nl]?|ious|ical?ly|ology|ographys?)$", word) else 1
        at = places[max(0, len(places) - 1 - num_after)]
    else:
        at = full[0] if len(full) < 4 else full[-3]
    return f"{phonemes[:at]}ˈ{phonemes[at:]}"
