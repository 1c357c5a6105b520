"""The checks on a generated text before it is saved."""

import unicodedata
from collections.abc import Sequence

from resources.ai.text_length import unit, written_length

# Marks after which a text continues; every other one may end it, in any script.
_GOES_ON = frozenset(",;:،؛、，；：-–—(")
_ENDS = ("Po", "Pe", "Pf", "Pi", "So", "Sk", "Sm")
# Scripts without a mark at the end of a sentence.
_WITHOUT_FULL_STOP = ("THAI", "LAO", "KHMER", "TIBETAN")
# A text this much shorter or longer than requested gets a remark.
_SHORTEST, _LONGEST = 0.5, 2.0
_TELLING_LENGTH = 20
# Languages that are hard to tell apart: within a group, each passes for the others.
_ALIKE = (
    {"bs", "hr", "sr", "sh"},
    {"no", "nb", "nn", "da"},
    {"id", "ms", "jv"},
    {"zh", "wuu", "yue"},
)
_OLD_CODES = {"iw": "he", "in": "id", "ji": "yi", "nb": "no"}


def remarks(
    sections: Sequence[str], language: str, length: int, unfinished: Sequence[int]
) -> list[str]:
    """What an editor should look at in a text of these sections.

    `unfinished` are the numbers of sections that the model did not finish; `length` is in words, or
    in characters where the language has no spaces between words.
    """
    notes = [
        f"section {number} has no end"
        for number, section in enumerate(sections, 1)
        if number in unfinished or not _ended(section)
    ]
    text = "\n".join(sections)
    written = written_length(text)
    if not _SHORTEST * length <= written <= _LONGEST * length:
        notes.append(f"it has {written} {unit(language)} instead of {length}")
    other = _other_language(text, language) if written >= _TELLING_LENGTH else None
    if other:
        notes.append(f"its language seems to be {other} instead of {language}")
    return notes


def _ended(section: str) -> bool:
    """Whether a section ends with a mark, a picture, a link or a hashtag."""
    *_, word = section.split() or [""]
    if not word or word[-1] in _GOES_ON:
        return False
    if word.startswith(("#", "http")) or unicodedata.category(word[-1]) in _ENDS:
        return True
    return unicodedata.name(word[-1], "").startswith(_WITHOUT_FULL_STOP) or word[-1] in "\"'\ufe0f"


def _other_language(text: str, expected: str) -> str | None:
    """The language of a text where it is certainly another one; None where that is unclear."""
    import py3langid  # 0.5 s, and needed here alone

    expected = _OLD_CODES.get(expected, expected)
    ranked = [str(name) for name, _ in py3langid.rank(text)]
    if expected not in ranked or expected == ranked[0]:
        return None
    if any({expected, ranked[0]} <= group for group in _ALIKE):
        return None
    return ranked[0]
