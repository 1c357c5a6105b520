"""Paths into an event (`data.tenant.id`), and filters over it (SQL/JSON path).

PostgreSQL evaluates a filter over the event as `$`: `$.data.total > 100 && $.data.country == "CH"`.
The grammar is that of PostgreSQL's jsonpath (its manual's chapter 9.16, *The SQL/JSON Path
Language*). It is checked here too, so that a mistake is found when the code loads, without a
database, and with its position. As filters also come over HTTP, the check reads each only once,
from beginning to end, and rejects those that PostgreSQL could reject for their size.
"""

import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from runyard.errors import InvalidOption

MAX_FILTER_LENGTH = 4_000
# PostgreSQL's own limit is its stack, 2 MB by default: PostgreSQL 18 evaluates about 3,000 members
# in a row (two tokens each), and 1,300 nested brackets.
MAX_TOKENS = 2_000
MAX_DEPTH = 50
# For `like_regex`: PostgreSQL 18 takes 40 ms to compile a pattern of this length, 60 s for 3,600.
MAX_PATTERN_LENGTH = 500
MAX_PATH_LENGTH = 1_000
_FIELDS = ("id", "name", "data", "user", "v", "ts")
_SEGMENT = re.compile(r"[A-Za-z0-9_$-]+")


def parse_path(path: str, what: str) -> list[str]:
    """Return the parts of a path into an event; a leading `event.` is ignored.

    Raises `InvalidOption`, in which `what` names the option.
    """
    if isinstance(path, str) and len(path) > MAX_PATH_LENGTH:
        raise InvalidOption(
            f"{what}: a path into the event may have {MAX_PATH_LENGTH:,} characters, not "
            f"{len(path):,}; write it as data.tenant_id"
        )
    parts = path.removeprefix("event.").split(".") if isinstance(path, str) else []
    if not _is_path(parts):
        raise InvalidOption(
            f"{what}: {path!r} is not a path into the event; write it as data.tenant_id or user.id "
            f"(fields: {', '.join(_FIELDS)})"
        )
    return parts


def _is_path(parts: list[str]) -> bool:
    if not parts or parts[0] not in _FIELDS:
        return False
    if len(parts) > 1 and parts[0] not in ("data", "user"):
        return False
    return all(_SEGMENT.fullmatch(part) for part in parts)


def check_filter(text: str, what: str) -> str:
    """Return a filter unchanged.

    Raises `InvalidOption` with the position at which it is not SQL/JSON path, or with the limit
    that it exceeds; `what` names the option.
    """
    if not isinstance(text, str):
        raise InvalidOption(
            f"{what}: give SQL/JSON path as text, as in '$.data.total > 100', "
            f"not {type(text).__name__}"
        )
    if len(text) > MAX_FILTER_LENGTH:
        raise InvalidOption(
            f"{what}: a filter may have {MAX_FILTER_LENGTH:,} characters, not {len(text):,}; "
            "shorten the condition, or decide in a step"
        )
    try:
        _Parser(_tokens(text)).whole()
    except _SyntaxError as error:
        raise InvalidOption(
            f"{what}: not SQL/JSON path at character {error.position + 1}: {error}, "
            f"in {_around(text, error.position)}"
        ) from None
    return text


class _SyntaxError(Exception):
    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


_SHOWN = 200


def _around(text: str, position: int) -> str:
    """Return the text with a mark at a position; of a long text only what is near it."""
    begin, end = max(0, position - _SHOWN // 2), position + _SHOWN // 2
    before = f"{'…' if begin else ''}{text[begin:position]}"
    after = f"{text[position:end]}{'…' if end < len(text) else ''}"
    return f"{before}⟨here⟩{after}"


# What PostgreSQL's scanner treats as blank, and what can be part of a word. Groups are atomic
# (`(?>...)`), so that matching never backtracks; Python before 3.11.5 gets possessive ones wrong.
_BLANK = r"[ \t\n\r\f]"
_OTHER = r"[^ \t\n\r\f?%$.\[\]{}()|&!=<>@\#,*:+/\"\\-]"
_TEXT = r'"(?>(?:[^"\\]|\\.)*)"'
_INTEGER = r"(?:0|[1-9](?>(?:_?[0-9])*))"
_DIGITS = r"[0-9](?>(?:_?[0-9])*)"
_TOKEN = re.compile(
    rf"""(?P<space>(?>(?:{_BLANK}|/\*(?>(?:[^*]|\*(?!/))*)\*/)+))
      | (?P<comment>/\*)
      | (?P<decimal>(?:{_INTEGER}\.(?>(?:{_DIGITS})?)|\.{_DIGITS})(?>(?:[eE][+-]?{_DIGITS})?)
            |{_INTEGER}[eE][+-]?{_DIGITS})
      | (?P<integer>0[xX][0-9A-Fa-f](?>(?:_?[0-9A-Fa-f])*)|0[oO][0-7](?>(?:_?[0-7])*)
            |0[bB][01](?>(?:_?[01])*)|{_INTEGER})
      | (?P<text>{_TEXT})
      | (?P<variable>\$(?:{_TEXT}|{_OTHER}++))
      | (?P<word>{_OTHER}++)
      | (?P<sign>\*\*|&&|\|\||==|!=|<>|<=|>=|[-+*/%<>=!()\[\]{{}}.,?@$])""",
    re.VERBOSE | re.DOTALL,
)
_STARTS_OTHER = re.compile(_OTHER)
_ESCAPE = re.compile(
    r"\\(?:u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{2})|[^ux])", re.DOTALL
)
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_METHODS = {
    "abs",
    "bigint",
    "boolean",
    "ceiling",
    "date",
    "double",
    "floor",
    "integer",
    "keyvalue",
    "number",
    "size",
    "string",
    "type",
}
_METHODS_WITH_NUMBERS = {"decimal": 2, "time": 1, "time_tz": 1, "timestamp": 1, "timestamp_tz": 1}
_LITERALS = {"true", "false", "null"}
_COMPARISONS = ("==", "!=", "<>", "<", "<=", ">", ">=")
# PostgreSQL does not implement `x`, and accepts it only where `q` makes it meaningless.
_FLAGS = re.compile(r'"(?:[ism]*|[ismxq]*q[ismxq]*)"')
_LARGEST_LEVEL, _LARGEST_EXPONENT = 2**31 - 1, 16_000
_UNEXPECTED = {
    '"': "a text without an end",
    "\\": "a backslash has a meaning only inside double quotes",
}
_Token = tuple[str, str, int]


def _tokens(text: str) -> list[_Token]:
    """Return the kind, the text and the position of every token, and of the end."""
    unstorable = _UNSTORABLE.search(text)
    if unstorable is not None:
        raise _SyntaxError("a character that PostgreSQL cannot store", unstorable.start())
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            problem = _UNEXPECTED.get(text[position], "unexpected character")
            raise _SyntaxError(problem, position)
        _check_token(match)
        if match.lastgroup != "space":
            tokens.append((str(match.lastgroup), match.group(), position))
        if len(tokens) > MAX_TOKENS:
            raise _SyntaxError(
                f"a filter may have {MAX_TOKENS:,} names, values and signs, and this is one more",
                position,
            )
        position = match.end()
    return [*tokens, ("end", "", len(text))]


def _check_token(token: re.Match[str]) -> None:
    """Raise `_SyntaxError` for a token that PostgreSQL would not accept."""
    text, part, position, end = token.string, token.group(), token.start(), token.end()
    match token.lastgroup:
        case "comment":
            raise _SyntaxError("a comment without an end", position)
        case "variable":
            raise _SyntaxError(
                "a filter has no variables, as nothing would set them; write the value itself, or "
                "a member of the event as $.data.x",
                position,
            )
        case "integer" | "decimal" if _STARTS_OTHER.match(text, end):
            raise _SyntaxError("a number ends where something else begins", position)
        case "decimal" if abs(int(re.split("[eE]", part + "e0")[1])) > _LARGEST_EXPONENT:
            raise _SyntaxError("a number that is too large or too small", position)
        case "word" if text.startswith("/*", end):
            raise _SyntaxError("a comment after a word needs a blank before it", end)
        case "text" if not _escapes_well(part):
            raise _SyntaxError(
                "a backslash that escapes nothing, or a character that PostgreSQL cannot store",
                position,
            )


def _escapes_well(text: str) -> bool:
    """Return whether every backslash escapes a storable character; surrogates come in pairs."""
    if "\\" not in text:
        return True
    high_at = -1  # where a high surrogate ended, which a low one must follow
    for match in _ESCAPE.finditer(text):
        number = int(match[1] or match[2] or match[3] or "1", 16)
        low = 0xDC00 <= number <= 0xDFFF
        if number == 0 or number > 0x10FFFF:
            return False
        if low != (high_at == match.start()) or (not low and high_at >= 0):
            return False
        high_at = match.end() if 0xD800 <= number <= 0xDBFF else -1
    return high_at < 0 and "\\" not in _ESCAPE.sub("", text)


_Bracket = Literal["none", "group", "not", "exists", "where", "subscript"]


@dataclass(slots=True)
class _Part:
    """The filter itself or an open bracket in it, and how far it has been read.

    Attributes
    ----------
    bracket
        What it encloses: `group` a condition or a value, `where` is `?( )`.
    joined
        Whether `&&` or `||` has been read, so that all of it must be conditions.
    compared
        Whether the comparison of the current condition has been read.
    value
        Whether a value is expected and no condition: after a sign, an operator, a comparison.
    ranged
        Whether the `to` of the current subscript has been read.
    """

    bracket: _Bracket
    joined: bool = False
    compared: bool = False
    value: bool = False
    ranged: bool = False


class _Parser:
    """Reads each token once, with the open brackets on a stack of its own instead of recursion.

    What was read last is a value, a condition, or a condition in brackets (`grouped`), which is a
    value when an accessor follows.
    """

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._parts = [_Part("none")]
        self._last: Literal["value", "condition", "grouped"] = "value"

    def whole(self) -> None:
        """Read to the end; raises `_SyntaxError`."""
        self._accept("strict", "lax")
        while self._parts:
            self._operand()
            while self._parts and not self._after_operand():
                pass

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _text(self) -> str:
        """Return the current token; keywords are case-insensitive."""
        kind, text, _ = self._tokens[self._at]
        return text.lower() if kind == "word" else text

    def _fail(self, message: str) -> NoReturn:
        raise _SyntaxError(message, self._tokens[self._at][2])

    def _accept(self, *texts: str) -> bool:
        return self._text() in texts and self._accept_kind("sign", "word")

    def _accept_kind(self, *kinds: str) -> bool:
        accepted = self._kind() in kinds
        self._at += accepted
        return accepted

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail(f"expected {text!r}")

    def _open(self, bracket: _Bracket) -> None:
        if len(self._parts) > MAX_DEPTH:
            self._at -= 1
            self._fail(f"brackets may be nested {MAX_DEPTH} levels deep, and this is one more")
        self._parts.append(_Part(bracket, value=bracket in ("exists", "subscript")))

    def _operand(self) -> None:
        """Read an operand, and the brackets that open before it."""
        while True:
            part = self._parts[-1]
            negated = not part.value and self._accept("!")
            if not part.value and self._accept("exists"):
                self._expect("(")
                self._open("exists")
            elif negated:
                self._expect("(")
                self._open("not")
            else:
                while self._accept("+", "-"):
                    part.value = True
                if not self._accept("("):
                    break
                self._open("group")
        self._primary()
        self._last = "value"

    def _primary(self) -> None:
        kind, text, _ = self._tokens[self._at]
        if text == "@" and not self._inside("where"):
            self._fail("@ has a meaning only inside ?( )")
        if kind == "word" and text.lower() == "last" and not self._inside("subscript"):
            self._fail("last has a meaning only inside [ ]")
        if kind == "word" and text not in _LITERALS and text.lower() != "last":
            self._fail(
                f"expected a value: $, a text, a number; a member of the event is written $.{text}"
            )
        if not self._accept_kind("word", "text", "integer", "decimal") and not self._accept(
            "$", "@"
        ):
            self._fail("expected a value: $, a text, a number")

    def _inside(self, bracket: _Bracket) -> bool:
        return any(part.bracket == bracket for part in self._parts)

    def _after_operand(self) -> bool:
        """Read one thing after an operand; return whether another operand must follow."""
        part = self._parts[-1]
        if self._last != "condition" and self._text() in ("?", "[", "."):
            return self._accessor()
        if self._last == "grouped" and part.value:
            self._fail("a condition in brackets is not a value here")
        if self._last == "grouped" and self._accept("is"):
            self._expect("unknown")
            self._last = "condition"
            return False
        if self._last == "value" and self._accept("+", "-", "*", "/", "%"):
            part.value = True
            return True
        comparable = not part.compared and part.bracket not in ("exists", "subscript")
        if self._last == "value" and comparable:
            if self._accept(*_COMPARISONS):
                part.compared = part.value = True
                return True
            if self._about_text():
                self._last = "condition"
                return False
        if self._text() in ("&&", "||"):
            self._condition(part)
            self._at += 1
            part.joined, part.compared, part.value = True, False, False
            return True
        if part.bracket == "subscript" and self._text() in (("," if part.ranged else "to"), ","):
            part.ranged = self._text() == "to"
            self._at += 1
            return True
        self._close(part)
        return False

    def _condition(self, part: _Part) -> bool:
        """Return whether what was read last ends a condition; fails if it must and does not."""
        condition = part.compared or self._last != "value"
        joined = part.joined or self._text() in ("&&", "||")
        if not condition and (joined or part.bracket in ("not", "where")):
            self._fail("expected a comparison")
        return condition

    def _close(self, part: _Part) -> None:
        """Close a bracket, or end the filter; fails for any other token."""
        condition = self._condition(part)
        if part.bracket == "none" and self._kind() != "end":
            self._fail("expected the end")
        if part.bracket != "none":
            self._expect("]" if part.bracket == "subscript" else ")")
        self._parts.pop()
        if part.bracket in ("not", "exists"):
            self._last = "condition"
        else:
            self._last = "grouped" if part.bracket == "group" and condition else "value"

    def _about_text(self) -> bool:
        """Read `starts with` or `like_regex` and the text after it, if one of them is next."""
        if self._accept("starts"):
            self._expect("with")
            if not self._accept_kind("text"):
                self._fail("expected a text in double quotes")
            return True
        if not self._accept("like_regex"):
            return False
        if self._kind() == "text" and len(self._text()) > MAX_PATTERN_LENGTH + 2:
            self._fail(
                f"a pattern may have {MAX_PATTERN_LENGTH} characters, as PostgreSQL takes long to "
                "compile a longer one"
            )
        if not self._accept_kind("text"):
            self._fail("expected a text in double quotes")
        if self._accept("flag"):
            if not _FLAGS.fullmatch(self._text()):
                self._fail("expected flags out of i, s, m and q, x only with q")
            self._at += 1
        return True

    def _accessor(self) -> bool:
        """Read an accessor; return whether it opened a bracket."""
        self._last = "value"
        if self._accept("?"):
            self._expect("(")
            self._open("where")
            return True
        if self._accept("["):
            if not self._accept("*"):
                self._open("subscript")
                return True
            self._expect("]")
            return False
        self._expect(".")
        self._member()
        return False

    def _member(self) -> None:
        if self._accept("*"):
            return
        if self._accept("**"):
            if self._accept("{"):
                self._level()
                if self._accept("to"):
                    self._level()
                self._expect("}")
            return
        if self._accept_kind("text"):
            return
        if self._kind() != "word":
            self._fail(
                "expected the name of a field; put one with other characters in double quotes"
            )
        name = self._text()
        self._at += 1
        if self._text() == "(" and name not in {"datetime", *_METHODS, *_METHODS_WITH_NUMBERS}:
            self._at -= 1
            self._fail(f"there is no method {name}()")
        if self._accept("("):
            self._arguments(name)

    def _level(self) -> None:
        if self._kind() == "integer" and int(self._text(), 0) > _LARGEST_LEVEL:
            self._fail(f"a level may be {_LARGEST_LEVEL} at most")
        if not self._accept_kind("integer") and not self._accept("last"):
            self._fail("expected a whole number or last")

    def _arguments(self, method: str) -> None:
        if method == "datetime":
            self._accept_kind("text")
        elif self._text() != ")":
            for position in range(_METHODS_WITH_NUMBERS.get(method, 0)):
                if position and not self._accept(","):
                    break
                if method == "decimal":
                    self._accept("+", "-")
                if not self._accept_kind("integer"):
                    self._fail("expected a whole number")
        self._expect(")")
