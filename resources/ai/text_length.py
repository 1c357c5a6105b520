"""The length of a text: in words, or in characters where the script has no spaces."""

import unicodedata

# Languages whose words are written without spaces.
_WITHOUT_SPACES = frozenset(("zh", "ja", "th", "lo", "km", "my", "bo", "dz"))
_SCRIPTS_WITHOUT_SPACES = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "IDEOGRAPHIC ITERATION",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)


def unit(language: str) -> str:
    """The unit of a text's length: `words` or `characters`."""
    return "characters" if language in _WITHOUT_SPACES else "words"


def written_length(text: str) -> int:
    """The number of words; each letter counts as one where its script has no spaces.

    Only letters and digits make a word: a lone dash does not, and marks belong to their letter.
    """

    length = 0
    in_word = False
    for letter in text:
        if letter.isspace():
            in_word = False
        elif letter.isascii() and letter.isalnum():
            length += not in_word
            in_word = True
        elif letter.isalpha():
            if _stands_alone(letter):
                length += 1
                in_word = False
            else:
                length += not in_word
                in_word = True
        elif letter.isdigit():
            length += not in_word
            in_word = True
    return length


def _stands_alone(letter: str) -> bool:
    """Whether a letter's script has no spaces between words. All of these are above Latin."""
    return letter > "\u0dff" and unicodedata.name(letter, "").startswith(_SCRIPTS_WITHOUT_SPACES)
