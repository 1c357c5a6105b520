"""Takes secrets out of text that will be kept or shown: errors, tracebacks, pages.

A secret is the value of an environment variable whose name says so, the password in the URL or the connection string that any variable holds, and what
stands as a password in the text itself, in a URL (`://user:password@host`) or behind `password=`. One that is known is found in the forms that texts
have it in: as it is, quoted as JSON or Python quotes it, encoded as in a URL.
"""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import quote, unquote

# Parts of names that say it, wherever they stand, but for words that only begin or end so: KEYBOARD, MONKEY, TOKENIZER, PRIVATE_IP.
_NAMES = re.compile(
    r"""SECRET|TOKEN(?!I[SZ])|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|SIGNING|AWS_ACCESS|BASIC_?AUTH
      | PRIVATE(?!_(?:IP|HOST|HOSTNAME|DOMAIN|NETWORK|SUBNET|ADDRESS|PORT|DNS)(?:_|$))
      | (?<!MON)(?<!TUR)(?<!DON)(?<!HOC)(?<!JOC)KEY(?!BOARD|MAP|WORD|PAD|STONE|CLOAK|SPACE|FRAME)
      | (?:^|_)(?:DB|USER)?PASS(?:_?\d+)?$
      | _(?:PWD|PAT|SK)(?:_?\d+)?$ | ^SK$""",
    re.IGNORECASE | re.VERBOSE,
)
# What only counts or measures them.
_NUMBERS = re.compile(
    r"(?:TOKENS|_(?:RATE|LIMIT|SECONDS|TTL|DAYS|COUNT|SIZE|LENGTH))$", re.IGNORECASE
)
# A password goes on to the last @ before what is not in it: a blank, a quote, the next URL, the query. Digits behind the colon may be a port.
_URL = re.compile(
    r"""://(?P<user>[^\s:/@\[]*+):(?!@|\d{1,5}(?:[/?\#,;)\]}"'\s]|$))
      (?P<password>(?:(?:(?!://|[?&][\w.-]+=|\\[nrt])[^\s"'<>@])*+@)++|[^@/\s]++@)""",
    re.VERBOSE,
)
# It begins with the sign, which is searched for fast, and looks back at the name. Without quotes it goes on to a blank, or to the next name with a value;
# a quote behind which a list goes on is the end of a text that ended with the sign.
_ASSIGNED = re.compile(
    r"""=(?<=[dDeE\ ]=)(?i:
          (?:(?<=password=)|(?<=passwd=)|(?<=passphrase=)|(?<=pwd=)(?!/))
            (?!\[redacted\]|none\b|null\b)(?P<bare>(?:[^\s"'<>\\&;,]|[&;,](?![\w.-]+=))++)
          |(?:(?<=password=)|(?<=passwd=)|(?<=passphrase=)|(?<=pwd=)|(?<=password\ =)|(?<=passwd\ =)|(?<=passphrase\ =)|(?<=pwd\ =))
            (?P<before>\ ?(?P<quote>\\*["'])(?![\s,:;\]})]))(?P<quoted>(?:(?!(?P=quote))[^\n])++))""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[\w.~-]+", re.ASCII)
_CORE = re.compile(r"[A-Za-z0-9]+")
_AROUND = ")]},;:."
_SHORTEST = 6
_LEAST_CORE = 3
MASK = "[redacted]"
# What `runyard keys create` makes.
_OUR_KEY = re.compile(r"\bry_[a-z0-9-]{1,32}_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
Redactor = Callable[[str], str]


def redact(text: str) -> str:
    """Return `text` with every known secret replaced by `[redacted]`.

    Values shorter than six characters are left: they would turn up in innocent words.
    """
    return redactor()(text)


def redactor() -> Redactor:
    """`redact` with the secrets of this moment, for many texts."""
    return _redactor(tuple(os.environ.items()))


@lru_cache(maxsize=4)
def _redactor(variables: tuple[tuple[str, str], ...]) -> Redactor:
    known = {
        secret
        for name, value in variables
        for secret in _secrets(name, value)
        if len(secret) >= _SHORTEST
    }
    # One that holds another goes first, or a part of it would be left.
    replacements = [
        _replacement(secret) for secret in sorted(known, key=lambda secret: (-len(secret), secret))
    ]

    def without_secrets(text: str) -> str:
        for replace in replacements:
            text = replace(text)
        if "ry_" in text:
            text = _OUR_KEY.sub(MASK, text)
        if "://" in text:
            text = _URL.sub(rf"://\g<user>:{MASK}@", text)
        return _ASSIGNED.sub(_assigned, text) if "=" in text else text

    return without_secrets


def _secrets(name: str, value: str) -> Iterator[str]:
    """What is secret in an environment variable. Several secrets stand in one with commas or line breaks between."""
    if _NAMES.search(name) and not (value.isdecimal() and _NUMBERS.search(name)):
        yield value.strip()
        yield from (
            part.strip() for part in re.split(r"[,\n]", value) if not part.startswith("-----")
        )
    for found in _URL.finditer(value):
        user, password = found["user"], found["password"][:-1]
        others = value.replace(found[0], user).lower()
        # What stands elsewhere in it too, as the database's name, is no secret, and may be any word.
        if password.lower() not in others:
            yield from (password, unquote(password), password.partition("@")[0])
            if value.lower().startswith("http"):  # sent as Basic authentication
                yield base64.b64encode(
                    f"{unquote(user)}:{unquote(password)}".encode(errors="surrogateescape")
                ).decode()
    for found in _ASSIGNED.finditer(value):
        yield found["quoted"] or found["bare"].rstrip(_AROUND)


def _assigned(found: re.Match[str]) -> str:
    if found["bare"] is None:
        return f"={found['before']}{MASK}"
    # Brackets and stops at the end are those of the text around it.
    password = found["bare"].rstrip(_AROUND)
    return f"={MASK}{found['bare'][len(password) :]}" if password else found[0]


def _replacement(secret: str) -> Redactor:
    """What replaces a secret in all its forms. Most have one alone; the others are looked for only where the longest word in them is."""
    if _PLAIN.fullmatch(secret):
        return lambda text: text.replace(secret, MASK)
    core = max(_CORE.findall(secret), key=len, default="")
    if len(core) < _LEAST_CORE:
        core = ""
    forms = sorted(_quoted_forms(secret), key=len, reverse=True)
    encoded = re.compile("".join(_encoded(character) for character in secret))

    def replace(text: str) -> str:
        if core not in text:
            return text
        for form in forms:
            text = text.replace(form, MASK)
        return encoded.sub(MASK, text)

    return replace


def _quoted_forms(secret: str) -> set[str]:
    """A secret as it is, as JSON quotes it (once and twice), and as Python does."""
    as_json = json.dumps(secret)[1:-1]
    forms = {secret, as_json, json.dumps(secret, ensure_ascii=False)[1:-1]}
    # Python takes single quotes where there is a double one, and then escapes the single ones.
    return (
        forms
        | {json.dumps(as_json)[1:-1]}
        | {quoted for form in forms for quoted in (repr(form)[1:-1], repr(form + '"')[1:-2])}
    )


def _encoded(character: str) -> str:
    """A pattern of a character of a secret in a URL, encoded or as it is: which ones are encoded depends on who does it."""
    percent = quote(character.encode("utf-8", "surrogateescape"), safe="")
    if percent == character:
        return re.escape(character)
    forms = {
        percent,
        percent.lower(),
        "+" if character == " " else "%25" if character == "%" else character,
    }
    return f"(?:{'|'.join(map(re.escape, sorted(forms)))})"
