"""Paths into an event (`data.tenant.id`), and filters over it (SQL/JSON path), checked when the code loads.

A filter is evaluated by PostgreSQL, over the event as `$`: `$.data.total > 100 && $.data.country == "CH"`. Its grammar is
that of PostgreSQL's jsonpath (the manual's chapter 9.16, *The SQL/JSON Path Language*); it is checked here too, so that a mistake is
found at import, without a database, and with its position.
"""

import re
from collections.abc import Callable

from runyard.errors import InvalidOption

_FIELDS = ("id", "name", "data", "user", "v", "ts")
_SEGMENT = re.compile(r"[A-Za-z0-9_$-]+")


def path(given: str, what: str) -> list[str]:
    """Return a path into an event as its parts; `event.` may stand before it.

    Raises `InvalidOption` that calls the option `what` and says what a path is.
    """
    parts = given.removeprefix("event.").split(".") if isinstance(given, str) else []
    if not parts or parts[0] not in _FIELDS or not all(_SEGMENT.fullmatch(part) for part in parts) or (len(parts) > 1 and parts[0] not in ("data", "user")):
        raise InvalidOption(f"{what}: {given!r} is no path into the event; write it as data.tenant_id or user.id (fields: {', '.join(_FIELDS)})")
    return parts


def check_filter(given: str, what: str) -> str:
    """Return a filter as it was given; raises `InvalidOption` with the position where it stops being SQL/JSON path."""
    try:
        _Parser(given).whole()
    except _Wrong as wrong:
        shown = f"{given[: wrong.position]}⟨here⟩{given[wrong.position :]}"
        raise InvalidOption(f"{what}: not SQL/JSON path at character {wrong.position + 1}: {wrong}, in {shown}") from None
    return given


class _Wrong(Exception):
    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


_TOKEN = re.compile(
    r"""(?P<space>(?:\s|/\*.*?\*/)+)
      | (?P<number>(?:0[xX][0-9A-Fa-f]+(?:_[0-9A-Fa-f]+)*|0[oO][0-7]+(?:_[0-7]+)*|0[bB][01]+(?:_[01]+)*
          |(?:(?:0|[1-9]\d*(?:_\d+)*)(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+(?:_\d+)*)(?:[eE][+-]?\d+(?:_\d+)*)?)(?![A-Za-z0-9_]))
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<variable>\$(?:"(?:[^"\\]|\\.)*"|[^\s?%$.\[\]{}()|&!=<>@\#,*:+/"\\-]+))
      | (?P<word>(?!\d)[^\s?%$.\[\]{}()|&!=<>@\#,*:+/"\\-]+)(?!/\*)
      | (?P<sign>\*\*|&&|\|\||==|!=|<>|<=|>=|[-+*/%<>=!()\[\]{}.,?@$])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{2}|[^ux])")
_METHODS = {"abs", "bigint", "boolean", "ceiling", "date", "double", "floor", "integer", "keyvalue", "number", "size", "string", "type"}
_METHODS_WITH_NUMBERS = {"decimal": 2, "time": 1, "time_tz": 1, "timestamp": 1, "timestamp_tz": 1}
_LITERALS = {"true", "false", "null"}
_COMPARISONS = {"==", "!=", "<>", "<", "<=", ">", ">="}
_FLAGS = re.compile(r'"[ismxq]*"')


class _Parser:
    """Recursive descent over the tokens; `predicate` results say whether a part is a condition or a value, as the grammar demands."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        self._at = 0
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise _Wrong("unexpected character", position)
            if found.lastgroup != "space":
                if found.lastgroup in ("string", "variable") and "\\" in _ESCAPE.sub("", found.group()):
                    raise _Wrong("a backslash that escapes nothing", position)
                self._tokens.append((str(found.lastgroup), found.group(), position))
            position = found.end()
        self._tokens.append(("end", "", len(text)))
        self._in_filter = 0
        self._in_subscript = 0
        self._furthest: _Wrong | None = None

    def whole(self) -> None:
        if self._text().lower() in ("strict", "lax") and self._kind() == "word":
            self._at += 1
        self._condition_or_value()
        if self._kind() != "end":
            # What came furthest of all that was tried says it better than where the rest begins.
            if self._furthest is not None and self._furthest.position >= self._tokens[self._at][2]:
                raise self._furthest
            self._fail("the end was expected")

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _text(self) -> str:
        return self._tokens[self._at][1]

    def _fail(self, message: str) -> None:
        wrong = _Wrong(message, self._tokens[self._at][2])
        if self._furthest is None or wrong.position > self._furthest.position:
            self._furthest = wrong
        raise wrong

    def _accept(self, *texts: str) -> bool:
        if self._kind() in ("sign", "word") and self._text() in texts:
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail(f"{text!r} was expected")

    def _condition_or_value(self) -> bool:
        """Parse either; return whether it was a condition."""
        begun = self._at
        try:
            self._value()
            value_end, problem = self._at, None
        except _Wrong as wrong:
            value_end, problem = -1, wrong
        self._at = begun
        try:
            self._condition()
        except _Wrong as wrong:
            if value_end < 0:
                raise wrong if problem is None or wrong.position >= problem.position else problem from None
            self._at = value_end
            return False
        if self._at >= value_end:
            return True
        self._at = value_end
        return False

    def _condition(self) -> None:
        self._conjunction()
        while self._accept("||"):
            self._conjunction()

    def _conjunction(self) -> None:
        self._term()
        while self._accept("&&"):
            self._term()

    def _term(self) -> None:
        if self._accept("!"):
            self._delimited()
            return
        begun = self._at
        attempts: tuple[Callable[[], None], ...] = (self._comparison, self._bracketed)
        problems: list[_Wrong] = []
        for attempt in attempts:
            self._at = begun
            try:
                attempt()
                return
            except _Wrong as wrong:
                problems.append(wrong)
        raise max(problems, key=lambda wrong: wrong.position)

    def _delimited(self) -> None:
        if self._accept("exists"):
            self._expect("(")
            self._value()
            self._expect(")")
            return
        self._expect("(")
        self._condition()
        self._expect(")")

    def _bracketed(self) -> None:
        self._delimited()
        if self._accept("is"):
            self._expect("unknown")

    def _comparison(self) -> None:
        self._value()
        if self._kind() == "sign" and self._text() in _COMPARISONS:
            self._at += 1
            self._value()
        elif self._accept("starts"):
            self._expect("with")
            if self._kind() not in ("string", "variable"):
                self._fail("a text was expected")
            self._at += 1
        elif self._accept("like_regex"):
            self._string()
            if self._accept("flag"):
                if not _FLAGS.fullmatch(self._text()):
                    self._fail("flags out of i, s, m, x and q were expected")
                self._at += 1
        else:
            self._fail("a comparison was expected")

    def _string(self) -> None:
        if self._kind() != "string":
            self._fail("a text in double quotes was expected")
        self._at += 1

    def _value(self) -> None:
        self._product()
        while self._accept("+", "-"):
            self._product()

    def _product(self) -> None:
        self._signed()
        while self._accept("*", "/", "%"):
            self._signed()

    def _signed(self) -> None:
        if self._accept("+", "-"):
            self._signed()
            return
        self._primary()
        self._accessors()

    def _primary(self) -> None:
        kind, text, _ = self._tokens[self._at]
        if kind in ("string", "number", "variable") or (kind == "word" and text.lower() in _LITERALS) or text == "$":
            self._at += 1
        elif text == "@" and kind == "sign":
            if not self._in_filter:
                self._fail("@ has a meaning only inside ?( )")
            self._at += 1
        elif text == "last" and kind == "word":
            if not self._in_subscript:
                self._fail("last has a meaning only inside [ ]")
            self._at += 1
        elif self._accept("("):
            condition = self._condition_or_value()
            self._expect(")")
            if condition and self._text() not in (".", "[", "?"):
                self._fail("a condition in brackets is no value here")
        else:
            self._fail("a value was expected: $, a text, a number")

    def _accessors(self) -> None:
        while True:
            if self._accept("?"):
                self._expect("(")
                self._in_filter += 1
                self._condition()
                self._in_filter -= 1
                self._expect(")")
            elif self._accept("["):
                self._subscripts()
            elif self._accept("."):
                self._member()
            else:
                return

    def _subscripts(self) -> None:
        self._in_subscript += 1
        if not self._accept("*"):
            while True:
                self._value()
                if self._accept("to"):
                    self._value()
                if not self._accept(","):
                    break
        self._in_subscript -= 1
        self._expect("]")

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
        if self._kind() == "string":
            self._at += 1
            return
        if self._kind() != "word":
            self._fail("the name of a field was expected; one with other characters stands in double quotes")
        name = self._text()
        self._at += 1
        if self._text() == "(" and name not in {"datetime", *_METHODS, *_METHODS_WITH_NUMBERS}:
            self._at -= 1
            self._fail(f"there is no method {name}()")
        if self._accept("("):
            self._arguments(name)

    def _level(self) -> None:
        if self._kind() == "number" or self._text() == "last":
            self._at += 1
        else:
            self._fail("a number or last was expected")

    def _arguments(self, method: str) -> None:
        if method == "datetime":
            if self._kind() == "string":
                self._at += 1
        elif method in _METHODS_WITH_NUMBERS:
            for position in range(_METHODS_WITH_NUMBERS[method]):
                if (position and not self._accept(",")) or self._text() == ")":
                    break
                self._accept("+", "-") if method == "decimal" else None
                if self._kind() != "number":
                    self._fail("a number was expected")
                self._at += 1
        self._expect(")")
