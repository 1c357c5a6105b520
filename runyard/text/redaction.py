"""Removes secrets from text that is stored or shown: errors, tracebacks, pages.

A secret is the value of an environment variable whose name says so, or the password in a URL or a
connection string in any variable. In the text itself it is a password in a URL
(`://user:password@host`) or after `password=`. A known secret is found as it is, quoted like JSON
or Python quotes it, and encoded as in a URL.
"""

import base64
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from urllib.parse import quote, unquote

# Parts of variable names that mark a secret, except in words that merely begin or end like them:
# KEYBOARD, MONKEY, TOKENIZER, PRIVATE_IP.
_NAMES = re.compile(
    r"""SECRET|TOKEN(?!I[SZ])|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|SIGNING|AWS_ACCESS|BASIC_?AUTH
      | PRIVATE(?!_(?:IP|HOST|HOSTNAME|DOMAIN|NETWORK|SUBNET|ADDRESS|PORT|DNS)(?:_|$))
      | (?<!MON)(?<!TUR)(?<!DON)(?<!HOC)(?<!JOC)KEY(?!BOARD|MAP|WORD|PAD|STONE|CLOAK|SPACE|FRAME)
      | (?:^|_)(?:DB|USER)?PASS(?:_?\d+)?$
      | _(?:PWD|PAT|SK)(?:_?\d+)?$ | ^SK$ | ^RUNYARD_ALERTS$""",
    re.IGNORECASE | re.VERBOSE,
)
# Names of variables that only count or measure secrets.
_NUMBERS = re.compile(
    r"(?:TOKENS|_(?:RATE|LIMIT|SECONDS|TTL|DAYS|COUNT|SIZE|LENGTH))$", re.IGNORECASE
)
# Groups are atomic (`(?>...)`): Python before 3.11.5 gets possessive ones wrong.
# A password ends at the last @ before something that cannot be part of it: a blank, a quote,
# another URL, the query. Digits after the colon may be a port.
_URL = re.compile(
    r"""://(?P<user>[^\s:/@\[]*+):(?!@|\d{1,5}(?:[/?\#,;)\]}"'\s]|$))
      (?P<password>(?>(?:(?>(?:(?!://|[?&][\w.-]+=|\\[nrt])[^\s"'<>@])*)@)+)|[^@/\s]++@)""",
    re.VERBOSE,
)
# The pattern begins with the equals sign, which is fast to search for, and looks back at the name.
# A password without quotes ends at a blank, or before the next name with a value. A quote before a
# separator is not the beginning of a password, but the end of a text that ended with the sign.
_ASSIGNED = re.compile(
    r"""=(?<=[dDeE\ ]=)(?i:
          (?:(?<=password=)|(?<=passwd=)|(?<=passphrase=)|(?<=pwd=)(?!/))
            (?!\[redacted\]|none\b|null\b)(?P<bare>(?>(?:[^\s"'<>\\&;,]|[&;,](?![\w.-]+=))+))
          |(?:(?<=password=)|(?<=passwd=)|(?<=passphrase=)|(?<=pwd=)
             |(?<=password\ =)|(?<=passwd\ =)|(?<=passphrase\ =)|(?<=pwd\ =))
            (?P<before>\ ?(?P<quote>\\*["'])(?![\s,:;\]})]))
            (?P<quoted>(?>(?:(?!(?P=quote))[^\n])+)))""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[\w.~-]+", re.ASCII)
_CORE = re.compile(r"[A-Za-z0-9]+")
_AROUND = ")]},;:."
_MIN_LENGTH = 6
_MIN_CORE = 3
MASK = "[redacted]"
_SIGNING_KEY = re.compile(r"signkey-[A-Za-z0-9]+-((?:[0-9a-fA-F]{2}){8,256})")
# A key created by `runyard keys create`.
_OUR_KEY = re.compile(r"\bry_[a-z0-9-]{1,32}_[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])")
Redactor = Callable[[str], str]
# The variables that the last call has seen, and the redactor made of them. It is replaced as a
# whole, so that no thread sees one without the other.
_latest: tuple[Mapping[bytes, bytes], Redactor] | None = None


def redact(text: str) -> str:
    """Return a text with every known secret replaced by `[redacted]`.

    Values of less than six characters are not replaced: they occur in ordinary words.
    """
    return redactor()(text)


def redactor() -> Redactor:
    """Return `redact` with the secrets of this moment, for use on many texts."""
    global _latest
    latest, present = _latest, _present_variables()
    if latest is None or latest[0] != present:
        variables = dict(present)
        latest = _latest = variables, _redactor_of(variables)
    return latest[1]


def without(secrets: Iterable[str]) -> Redactor:
    """Return a function that replaces these secrets by `[redacted]`, in all their forms."""
    # The longest first: of a secret that contains another one, a part would be left otherwise.
    ordered = sorted(secrets, key=lambda secret: (-len(secret), secret))
    replacements = [_replacement(secret) for secret in ordered]

    def replaced(text: str) -> str:
        for replace in replacements:
            text = replace(text)
        return text

    return replaced


def _present_variables() -> Mapping[bytes, bytes]:
    """Return the variables as `os.environ` itself stores them.

    Comparing these takes less than a microsecond; reading `os.environ` decodes every name and value
    each time.
    """
    variables: Mapping[bytes, bytes] = vars(os.environ)["_data"]
    return variables


def _redactor_of(variables: Mapping[bytes, bytes]) -> Redactor:
    known = {
        secret
        for name, value in variables.items()
        for secret in _secrets(os.fsdecode(name), os.fsdecode(value))
        if len(secret) >= _MIN_LENGTH
    }
    without_known = without(known)

    def without_secrets(text: str) -> str:
        text = without_known(text)
        if "ry_" in text:
            text = _OUR_KEY.sub(MASK, text)
        if "://" in text:
            text = _URL.sub(rf"://\g<user>:{MASK}@", text)
        return _ASSIGNED.sub(_assigned, text) if "=" in text else text

    return without_secrets


def _secrets(name: str, value: str) -> Iterator[str]:
    """Yield the secrets in an environment variable, which separates them by commas or lines."""
    if _NAMES.search(name) and not (value.isdecimal() and _NUMBERS.search(name)):
        yield value.strip()
        parts = re.split(r"[,\n]", value)
        yield from (part.strip() for part in parts if not part.startswith("-----"))
        yield from _of_signing_key(value.strip())
    for match in _URL.finditer(value):
        user, password = match["user"], match["password"][:-1]
        rest = value.replace(match[0], user).lower()
        # A password that the rest of the value repeats, such as the database's name, may be any
        # word, and is not treated as a secret.
        if password.lower() not in rest:
            yield from (password, unquote(password), password.partition("@")[0])
            if value.lower().startswith("http"):  # sent as Basic authentication
                credentials = f"{unquote(user)}:{unquote(password)}"
                yield base64.b64encode(credentials.encode(errors="surrogateescape")).decode()
    for match in _ASSIGNED.finditer(value):
        yield match["quoted"] or match["bare"].rstrip(_AROUND)


def _of_signing_key(value: str) -> Iterator[str]:
    """Yield what a signing key is used as: its digits, and the hash that applications send."""
    if match := _SIGNING_KEY.fullmatch(value):
        yield match[1]
        yield sha256(bytes.fromhex(match[1])).hexdigest()


def _assigned(match: re.Match[str]) -> str:
    """Return the replacement of a password after an equals sign."""
    if match["bare"] is None:
        return f"={match['before']}{MASK}"
    # Brackets and punctuation at the end belong to the text around it.
    password = match["bare"].rstrip(_AROUND)
    return f"={MASK}{match['bare'][len(password) :]}" if password else match[0]


def _replacement(secret: str) -> Redactor:
    """Return a function that replaces a secret in all its forms.

    Most secrets have only one form. The others are searched for only in texts that contain the
    longest word of the secret.
    """
    if _PLAIN.fullmatch(secret):
        return lambda text: text.replace(secret, MASK)
    core = max(_CORE.findall(secret), key=len, default="")
    if len(core) < _MIN_CORE:
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
    """Return a secret as it is, as JSON quotes it (once and twice), and as Python quotes it."""
    as_json = json.dumps(secret)[1:-1]
    forms = {secret, as_json, json.dumps(secret, ensure_ascii=False)[1:-1]}
    # Python uses single quotes around a text with a double quote, and escapes single ones in it.
    by_python = {text for form in forms for text in (repr(form)[1:-1], repr(form + '"')[1:-2])}
    return forms | {json.dumps(as_json)[1:-1]} | by_python


def _encoded(character: str) -> str:
    """Return a pattern for a character of a secret in a URL, encoded or as it is.

    Which characters are encoded depends on the program that wrote the URL.
    """
    percent = quote(character.encode("utf-8", "surrogateescape"), safe="")
    if percent == character:
        return re.escape(character)
    plain = {" ": "+", "%": "%25"}.get(character, character)
    forms = sorted({percent, percent.lower(), plain})
    return f"(?:{'|'.join(map(re.escape, forms))})"
