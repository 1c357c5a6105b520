"""Paths into an event (`data.tenant.id`), and filters over it (SQL/JSON path), checked when the code loads.

A filter is evaluated by PostgreSQL, over the event as `$`: `$.data.total > 100 && $.data.country == "CH"`. Its grammar is
that of PostgreSQL's jsonpath (the manual's chapter 9.16, *The SQL/JSON Path Language*); it is checked here too, so that a mistake is
found at import, without a database, and with its position. Filters come over HTTP as well: the check reads each once, from its beginning to
its end, and takes none that PostgreSQL could refuse for its size.
"""

import re
from dataclasses import dataclass
from typing import Literal, NoReturn

from runyard.errors import InvalidOption

MAX_FILTER_LENGTH = 4_000
# PostgreSQL's own bound is its stack, of 2 MB by default: PostgreSQL 18 evaluates some 3,000 members in a row (two tokens each), and 1,300 brackets.
MOST_TOKENS = 2_000
DEEPEST = 50
# Of `like_regex`: PostgreSQL 18 takes 40 ms to read one of so many characters, 60 s for one of 3,600.
LONGEST_PATTERN = 500
LONGEST_PATH = 1_000
_FIELDS = ("id", "name", "data", "user", "v", "ts")
_SEGMENT = re.compile(r"[A-Za-z0-9_$-]+")


def parse_path(given: str, what: str) -> list[str]:
    """Return a path into an event as its parts; `event.` may stand before it.

    Raises `InvalidOption` that calls the option `what` and says what a path is.
    """
    if isinstance(given, str) and len(given) > LONGEST_PATH:
        raise InvalidOption(
            f"{what}: a path into the event may have {LONGEST_PATH:,} characters, not {len(given):,}; write it as data.tenant_id"
        )
    parts = given.removeprefix("event.").split(".") if isinstance(given, str) else []
    if (
        not parts
        or parts[0] not in _FIELDS
        or not all(_SEGMENT.fullmatch(part) for part in parts)
        or (len(parts) > 1 and parts[0] not in ("data", "user"))
    ):
        raise InvalidOption(
            f"{what}: {given!r} is no path into the event; write it as data.tenant_id or user.id (fields: {', '.join(_FIELDS)})"
        )
    return parts


def check_filter(given: str, what: str) -> str:
    """Return a filter as it was given; raises `InvalidOption` with the position where it stops being SQL/JSON path, or the bound that it is beyond."""
    if not isinstance(given, str):
        raise InvalidOption(
            f"{what}: give SQL/JSON path as text, as in '$.data.total > 100', not {type(given).__name__}"
        )
    if len(given) > MAX_FILTER_LENGTH:
        raise InvalidOption(
            f"{what}: a filter may have {MAX_FILTER_LENGTH:,} characters, not {len(given):,}; keep a shorter condition, or decide in a step"
        )
    try:
        _Parser(_tokens(given)).whole()
    except _Wrong as wrong:
        raise InvalidOption(
            f"{what}: not SQL/JSON path at character {wrong.position + 1}: {wrong}, in {_around(given, wrong.position)}"
        ) from None
    return given


class _Wrong(Exception):
    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


_SHOWN = 200


def _around(text: str, position: int) -> str:
    """The text with its place, and of a long one what is near it."""
    begin, end = max(0, position - _SHOWN // 2), position + _SHOWN // 2
    return f"{'…' if begin else ''}{text[begin:position]}⟨here⟩{text[position:end]}{'…' if end < len(text) else ''}"


# What PostgreSQL's scanner takes for blank, and what ends a word; `+` behind a quantifier: what it has read is never given back.
_BLANK = r"[ \t\n\r\f]"
_OTHER = r"[^ \t\n\r\f?%$.\[\]{}()|&!=<>@\#,*:+/\"\\-]"
_TEXT = r'"(?:[^"\\]|\\.)*+"'
_INTEGER = r"(?:0|[1-9](?:_?[0-9])*+)"
_DIGITS = r"[0-9](?:_?[0-9])*+"
_TOKEN = re.compile(
    rf"""(?P<space>(?:{_BLANK}|/\*(?:[^*]|\*(?!/))*+\*/)++)
      | (?P<comment>/\*)
      | (?P<decimal>(?:{_INTEGER}\.(?:{_DIGITS})?+|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?+|{_INTEGER}[eE][+-]?{_DIGITS})
      | (?P<integer>0[xX][0-9A-Fa-f](?:_?[0-9A-Fa-f])*+|0[oO][0-7](?:_?[0-7])*+|0[bB][01](?:_?[01])*+|{_INTEGER})
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
_UNKEPT = re.compile("[\0\ud800-\udfff]")
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
# `x` is not made by PostgreSQL but where `q` takes its meaning away.
_FLAGS = re.compile(r'"(?:[ism]*|[ismxq]*q[ismxq]*)"')
_LARGEST_LEVEL, _LARGEST_EXPONENT = 2**31 - 1, 16_000
_Token = tuple[str, str, int]


def _tokens(text: str) -> list[_Token]:
    """The kind, the text and the position of every token, the end as the last one."""
    unkept = _UNKEPT.search(text)
    if unkept is not None:
        raise _Wrong("a character that PostgreSQL cannot keep", unkept.start())
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            problem = {
                '"': "a text without an end",
                "\\": "a backslash has a meaning only inside double quotes",
            }.get(text[position], "unexpected character")
            raise _Wrong(problem, position)
        kind, part, end = str(found.lastgroup), found.group(), found.end()
        if kind == "comment":
            raise _Wrong("a comment without an end", position)
        if kind == "variable":
            raise _Wrong(
                "a filter has no variables, for nothing gives them a value; write the value itself, or a member of the event as $.data.x",
                position,
            )
        if kind in ("integer", "decimal") and _STARTS_OTHER.match(text, end):
            raise _Wrong("a number ends where something else begins", position)
        if kind == "decimal" and abs(int(re.split("[eE]", part + "e0")[1])) > _LARGEST_EXPONENT:
            raise _Wrong("a number that is too large or too small", position)
        if kind == "word" and text.startswith("/*", end):
            raise _Wrong("a comment behind a word needs a blank before it", end)
        if kind == "text" and not _escapes_well(part):
            raise _Wrong(
                "a backslash that escapes nothing, or a character that PostgreSQL cannot keep",
                position,
            )
        if kind != "space":
            tokens.append((kind, part, position))
        if len(tokens) > MOST_TOKENS:
            raise _Wrong(
                f"a filter may have {MOST_TOKENS:,} names, values and signs, and this is one more",
                position,
            )
        position = end
    return [*tokens, ("end", "", len(text))]


def _escapes_well(text: str) -> bool:
    """Whether every backslash escapes a character that PostgreSQL can keep; surrogates only in pairs."""
    if "\\" not in text:
        return True
    high_at = -1  # where a high surrogate ended, whose low one must follow
    for found in _ESCAPE.finditer(text):
        number = int(found[1] or found[2] or found[3] or "1", 16)
        low = 0xDC00 <= number <= 0xDFFF
        if (
            number == 0
            or number > 0x10FFFF
            or low != (high_at == found.start())
            or (not low and high_at >= 0)
        ):
            return False
        high_at = found.end() if 0xD800 <= number <= 0xDBFF else -1
    return high_at < 0 and "\\" not in _ESCAPE.sub("", text)


_Bracket = Literal["none", "group", "not", "exists", "where", "subscript"]


@dataclass(slots=True)
class _Part:
    """The filter itself, or a bracket in it that is open, and how far it has come.

    Attributes
    ----------
    bracket
        What it is for: `group` is around a condition or a value, `where` is `?( )`.
    joined
        Whether `&&` or `||` has come, so that all of it must be conditions.
    compared
        Whether the comparison of the present condition has come.
    value
        Whether a value must come and no condition: behind a sign, an operator, a comparison.
    ranged
        Whether the `to` of the present subscript has come.
    """

    bracket: _Bracket
    joined: bool = False
    compared: bool = False
    value: bool = False
    ranged: bool = False


class _Parser:
    """Reads the tokens once, with the brackets that are open on a stack of its own: nothing is read twice, and no depth is too deep for it.

    What was read last is a value, a condition, or a condition in brackets (`grouped`), which is a value where an accessor follows.
    """

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._parts = [_Part("none")]
        self._last: Literal["value", "condition", "grouped"] = "value"

    def whole(self) -> None:
        """Read to the end; raises `_Wrong`."""
        self._accept("strict", "lax")
        while self._parts:
            self._operand()
            while self._parts and not self._behind():
                pass

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _text(self) -> str:
        """The present token; keywords are the same in capitals."""
        kind, text, _ = self._tokens[self._at]
        return text.lower() if kind == "word" else text

    def _fail(self, message: str) -> NoReturn:
        raise _Wrong(message, self._tokens[self._at][2])

    def _accept(self, *texts: str) -> bool:
        return self._text() in texts and self._accept_kind("sign", "word")

    def _accept_kind(self, *kinds: str) -> bool:
        accepted = self._kind() in kinds
        self._at += accepted
        return accepted

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail(f"{text!r} was expected")

    def _open(self, bracket: _Bracket) -> None:
        if len(self._parts) > DEEPEST:
            self._at -= 1
            self._fail(f"brackets may be nested {DEEPEST} deep, and this is one more")
        self._parts.append(_Part(bracket, value=bracket in ("exists", "subscript")))

    def _operand(self) -> None:
        """Read an operand, with the brackets that open before it."""
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
                f"a value was expected: $, a text, a number; a member of the event is written $.{text}"
            )
        if not self._accept_kind("word", "text", "integer", "decimal") and not self._accept(
            "$", "@"
        ):
            self._fail("a value was expected: $, a text, a number")

    def _inside(self, bracket: _Bracket) -> bool:
        return any(part.bracket == bracket for part in self._parts)

    def _behind(self) -> bool:
        """Read one thing behind what was read last; True where an operand must follow it."""
        part = self._parts[-1]
        if self._last != "condition" and self._text() in ("?", "[", "."):
            return self._accessor()
        if self._last == "grouped" and part.value:
            self._fail("a condition in brackets is no value here")
        if self._last == "grouped" and self._accept("is"):
            self._expect("unknown")
            self._last = "condition"
            return False
        if self._last == "value" and self._accept("+", "-", "*", "/", "%"):
            part.value = True
            return True
        if (
            self._last == "value"
            and not part.compared
            and part.bracket not in ("exists", "subscript")
        ):
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
        """Whether what was read last ends a condition; fails where it must and does not."""
        found = part.compared or self._last != "value"
        if not found and (
            part.joined or part.bracket in ("not", "where") or self._text() in ("&&", "||")
        ):
            self._fail("a comparison was expected")
        return found

    def _close(self, part: _Part) -> None:
        """Leave a bracket, or the filter itself; fails where something else stands."""
        condition = self._condition(part)
        if part.bracket == "none" and self._kind() != "end":
            self._fail("the end was expected")
        if part.bracket != "none":
            self._expect("]" if part.bracket == "subscript" else ")")
        self._parts.pop()
        self._last = (
            "condition"
            if part.bracket in ("not", "exists")
            else "grouped"
            if part.bracket == "group" and condition
            else "value"
        )

    def _about_text(self) -> bool:
        """Read `starts with` or `like_regex`, with the text behind it, if one of them is next."""
        if self._accept("starts"):
            self._expect("with")
            if not self._accept_kind("text"):
                self._fail("a text in double quotes was expected")
            return True
        if not self._accept("like_regex"):
            return False
        if self._kind() == "text" and len(self._text()) > LONGEST_PATTERN + 2:
            self._fail(
                f"a pattern may have {LONGEST_PATTERN} characters, for PostgreSQL takes long to read a longer one"
            )
        if not self._accept_kind("text"):
            self._fail("a text in double quotes was expected")
        if self._accept("flag"):
            if not _FLAGS.fullmatch(self._text()):
                self._fail("flags out of i, s, m and q were expected, x only beside q")
            self._at += 1
        return True

    def _accessor(self) -> bool:
        """Read an accessor; True where it opened a bracket."""
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
                "the name of a field was expected; one with other characters stands in double quotes"
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
            self._fail("a whole number or last was expected")

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
                    self._fail("a whole number was expected")
        self._expect(")")
