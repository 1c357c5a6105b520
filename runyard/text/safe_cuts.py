"""Where a text may be cut so that no secret is: half of one is not recognised and not redacted."""

from runyard.text.redaction import Redactor, redact

# Longer secrets are cut: a private key has three thousand characters.
MARGIN = 4_096
_STRIDE = 64


def cut_before(text: str, at: int, clean: Redactor = redact) -> int:
    """Return the last place up to `at` at which no secret is cut.

    What is cut is judged by up to `MARGIN` characters on either side. If there is no such place
    within as many, `at` itself is returned.
    """
    return _cut(text, at, -_STRIDE, clean)


def cut_after(text: str, at: int, clean: Redactor = redact) -> int:
    """Return the first place from `at` on at which no secret is cut, as `cut_before` does."""
    return _cut(text, at, _STRIDE, clean)


def _cut(text: str, at: int, stride: int, clean: Redactor) -> int:
    for moved in range(0, MARGIN + _STRIDE, _STRIDE):
        place = min(max(0, at + (moved if stride > 0 else -moved)), len(text))
        before, after = text[max(0, place - MARGIN) : place], text[place : place + MARGIN]
        if clean(before) + clean(after) == clean(before + after):
            return place
    return at
