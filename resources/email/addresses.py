"""E-mail addresses as people write them: parsed, compared and formatted in one place.

Light to import, because the event types need it, and with them every application that sends events.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email

# 320 for the address itself (RFC 3696), plus a name; header lines end at 998 (RFC 5322).
LONGEST_ADDRESS = 1000
_REMEMBERED = 1024
_SHOWN = 100
_MOST_SAID = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
# What a name may not contain unquoted: less than RFC 5322 says, because people write the rest.
_UNQUOTED = re.compile(r'[<>@"\\]')
_SPECIAL = re.compile(r'[()<>@,:;".\[\]\\]')
_COMMENTED = re.compile(r"([^\s()<>]+)\s+\(([^()]*)\)")
# One or more encoded words (RFC 2047), without what surrounds them.
_WORD = r"=\?[^?\s]+\?[bqBQ]\?[^?]*\?="
_ENCODED = re.compile(rf"{_WORD}(?:\s+{_WORD})*")
_IN_BRACKETS = re.compile(r"<([^<>]*)>$")


@dataclass(frozen=True)
class Mailbox:
    """An address and its display name (empty where there is none), both plain text.

    `domain` is the readable form (`müller.example`), `ascii_domain` the one that is looked up
    (`xn--mller-kva.example`).
    """

    name: str
    local: str
    domain: str
    ascii_domain: str

    @classmethod
    def parse(cls, text: str) -> "Mailbox":
        """Parse one address; raises ValueError with a message for whoever wrote it."""
        # Checked first: what follows may take time quadratic in the length.
        if len(text) > LONGEST_ADDRESS:
            raise ValueError(
                f"{shown(text)} is not an e-mail address: it has {len(text)} characters, "
                f"{LONGEST_ADDRESS} at most with its name"
            )
        return _mailbox(text)

    @property
    def address(self) -> str:
        """The address alone, in readable form."""
        return f"{self.local}@{self.domain}"

    @property
    def wire(self) -> str:
        """The address with its domain in ASCII, which every mail server and provider accepts."""
        return f"{self.local}@{self.ascii_domain}"

    def __str__(self) -> str:
        if not self.name:
            return self.address
        if not _SPECIAL.search(self.name):
            return f"{self.name} <{self.address}>"
        return '"{}" <{}>'.format(re.sub(r'(["\\])', r"\\\1", self.name), self.address)


def split(text: str) -> list[str]:
    """The addresses in a text that separates them with commas; quoted commas do not separate."""
    parts, begin, quoted, bracketed, escaped = [], 0, False, False, False
    for position, sign in enumerate(text):
        if escaped:
            escaped = False
        elif sign == "\\" and quoted:
            escaped = True
        elif sign == '"':
            quoted = not quoted
        elif not quoted and sign in "<>":
            bracketed = sign == "<"
        elif sign == "," and not quoted and not bracketed:
            parts.append(text[begin:position])
            begin = position + 1
    return [part for part in (*parts, text[begin:]) if part.strip()]


def bare(text: str) -> str:
    """The form in which addresses are compared: no name, lower case, a readable domain.

    A text that is not an address is only converted to lower case.
    """
    bracketed = _IN_BRACKETS.search(text)
    address = (bracketed[1] if bracketed else text).strip().lower()
    # Nearly all addresses are in that form already.
    if address.isascii() and "xn--" not in address:
        return address
    try:
        return Mailbox.parse(address).address.lower()
    except ValueError:
        return address


def forms(text: str) -> list[str]:
    """The forms in which an address may have been stored: `bare`, and with its domain in ASCII."""
    form = bare(text)
    return [form] if form.isascii() else [form, _in_ascii(form)]


def without_repeats(fields: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The addresses of each field without those that occurred before, there or in another field."""
    seen: set[str] = set()
    kept: dict[str, list[str]] = {}
    for field, addresses in fields.items():
        kept[field] = []
        for address in addresses:
            if (key := bare(address)) not in seen:
                seen.add(key)
                kept[field].append(address)
    return kept


def shown(text: str) -> str:
    """A text as an error message shows it, truncated when it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


@lru_cache(maxsize=_REMEMBERED)
def _mailbox(text: str) -> Mailbox:
    """Parse a text; cached, because one mail reads the same few addresses several times."""
    if _CONTROL.search(text):
        raise ValueError("must be one line, without control characters")
    name, address = _parts(text)
    try:
        checked = validate_email(address, check_deliverability=False)
    except EmailNotValidError as error:
        said = str(error)[:_MOST_SAID]
        raise ValueError(f"{shown(text)} is not an e-mail address: {said}") from None
    except Exception:  # the package raises many kinds: RecursionError, UnicodeError, IndexError ...
        raise ValueError(f"{shown(text)} is not an e-mail address") from None
    return Mailbox(_plain(name), checked.local_part, checked.domain, checked.ascii_domain or "")


def _in_ascii(address: str) -> str:
    try:
        return Mailbox.parse(address).wire.lower()
    except ValueError:
        return address


def _parts(text: str) -> tuple[str, str]:
    """The name and the address in a text; raises ValueError where it contains several addresses."""
    text = text.strip()
    if len(split(text)) > 1:
        raise ValueError(
            f"{shown(text)} is not one e-mail address: list each address separately, and put a "
            "name with a comma into double quotes"
        )
    if text.endswith(">"):
        name, _, address = text[:-1].rpartition("<")
        name = name.strip()
        unquoted = _QUOTED.sub(lambda match: _ESCAPED.sub(r"\1", match[1]), name)
        if _UNQUOTED.search(_QUOTED.sub("", name)):
            raise ValueError(
                f"{shown(text)} is not one e-mail address: put its name into double quotes"
            )
        return unquoted, address.strip()
    if commented := _COMMENTED.fullmatch(text):
        return commented[2], commented[1]
    return "", text


def _plain(name: str) -> str:
    """A name in readable form: encoded words (RFC 2047) decoded, single spaces between words."""
    if "=?" in name:
        try:
            name = _ENCODED.sub(lambda match: str(make_header(decode_header(match[0]))), name)
        except (HeaderParseError, LookupError, ValueError):
            raise ValueError(
                f"the name {shown(name)} cannot be decoded; write it as it is"
            ) from None
        if _CONTROL.search(name):
            raise ValueError("must be one line, without control characters")
    return " ".join(name.split())
