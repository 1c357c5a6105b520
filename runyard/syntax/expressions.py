"""Expressions over events, as Inngest's SDKs write them: a subset of CEL, parsed to a tree.

The language is Google's Common Expression Language (github.com/google/cel-spec) as far as an
application can send it: logic, comparison, arithmetic, indexing, lists, `in`, the conditional
operator, list macros, and some functions. What the operators mean differs from CEL, as it does in
Inngest's own server: see `expression_values`.

A tree is JSON, so that PostgreSQL can evaluate it (`runyard.cel_v1`): a list of an operator and its
operands. `["lit", 5]` is a literal, `["path", ["event", "data", "total"]]` a path with fixed
names, `["var", "x"]` a macro's variable, `["get", tree, tree]` any other index, and
`["call", "size", tree]` a function.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from runyard.errors import InvalidOption

Tree = list[Any]
MAX_LENGTH = 4_096
MAX_DEPTH = 40
MAX_NODES = 400
ROOTS = ("event", "async")
FUNCTIONS = {
    "size": 1,
    "contains": 2,
    "startsWith": 2,
    "endsWith": 2,
    "lowercase": 1,
    "uppercase": 1,
    "int": 1,
    "uint": 1,
    "double": 1,
    "string": 1,
}
MACROS = ("all", "exists", "exists_one", "filter", "map")
_ALIASES = {"lowerAscii": "lowercase", "upperAscii": "uppercase"}
_RELATIONS = ("==", "!=", "<=", ">=", "<", ">", "in")
_TOKEN = re.compile(
    r"""\s+ | //[^\n]*
    | (?P<number> 0[xX][0-9a-fA-F]+ | (?:[0-9]*\.[0-9]+ | [0-9]+)(?:[eE][+-]?[0-9]+)? ) u?
    | (?P<text> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )
    | (?P<word> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<sign> \|\| | && | == | != | <= | >= | [-+*/%!<>?:.,()\[\]{}] )
    """,
    re.VERBOSE,
)
_ESCAPES = re.compile(
    r"""(?:[^\\]|\\(?:[abfnrtv\\"']|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2}))*"""
)
_LITERALS: dict[str, object] = {"true": True, "false": False, "null": None}
_LONGEST_NUMBER = 30


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_expression(text: str, what: str) -> Tree:
    """Return the tree of an expression.

    Raises `InvalidOption`, in which `what` names the option, with the position at which it is not
    an expression, or what in it is not supported.
    """
    if not isinstance(text, str) or not text.strip():
        raise InvalidOption(f"{what}: give an expression, as in event.data.total > 100")
    if len(text) > MAX_LENGTH:
        raise InvalidOption(
            f"{what}: an expression may have {MAX_LENGTH:,} characters, not {len(text):,}"
        )
    return _Parser(text, what).parse()


def paths(tree: Tree) -> list[list[str]]:
    """Return the paths with fixed names in a tree."""
    if tree[0] == "path":
        return [tree[1]]
    if tree[0] == "lit":
        return []
    return [path for operand in tree[1:] for path in _paths_of(operand)]


def _paths_of(operand: object) -> list[list[str]]:
    if not isinstance(operand, list) or not operand:
        return []
    if isinstance(operand[0], list):
        return [path for each in operand for path in paths(each)]
    return paths(operand) if isinstance(operand[0], str) and len(operand) > 1 else []


def roots(tree: Tree) -> set[str]:
    """Return the events that a tree is about: `event`, `async`, both or none."""
    return {path[0] for path in paths(tree)}


class _Parser:
    """Recursive descent, with the precedences of CEL's grammar."""

    def __init__(self, text: str, what: str) -> None:
        self._text = text
        self._what = what
        self._tokens = self._tokenize()
        self._next = 0
        self._depth = 0
        self._nodes = 0
        self._variables: list[str] = []

    def parse(self) -> Tree:
        tree = self._conditional()
        if self._peek().kind != "end":
            self._fail("an operator or the end is expected")
        return tree

    # Tokens

    def _tokenize(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                self._fail_at(at, "this is not part of an expression")
            if match.lastgroup is not None:
                tokens.append(_Token(match.lastgroup, match[match.lastgroup], at))
            at = match.end()
        return [*tokens, _Token("end", "", at)]

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *signs: str) -> str | None:
        """Take the next token if it is one of these signs or words."""
        token = self._peek()
        if token.kind in ("sign", "word") and token.text in signs:
            self._next += 1
            return token.text
        return None

    def _expect(self, sign: str) -> None:
        if self._take(sign) is None:
            self._fail(f"{sign!r} is expected")

    def _word(self) -> str:
        token = self._peek()
        if token.kind != "word":
            self._fail("a name is expected")
        self._next += 1
        return token.text

    def _fail(self, problem: str) -> NoReturn:
        self._fail_at(self._peek().at, problem)

    def _fail_at(self, at: int, problem: str) -> NoReturn:
        around = self._text[max(0, at - 20) : at + 20]
        raise InvalidOption(
            f"{self._what}: not an expression at character {at + 1}, near {around!r}: {problem}"
        )

    def _node(self, *parts: Any) -> Tree:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise InvalidOption(
                f"{self._what}: an expression may have {MAX_NODES} parts: split the condition, or"
                " test it in the function"
            )
        return list(parts)

    # The grammar, from the loosest operator to the tightest

    def _conditional(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidOption(f"{self._what}: brackets may be nested {MAX_DEPTH} deep")
        tree = self._or()
        if self._take("?"):
            then = self._conditional()
            self._expect(":")
            tree = self._node("if", tree, then, self._conditional())
        self._depth -= 1
        return tree

    def _or(self) -> Tree:
        tree = self._and()
        while self._take("||"):
            tree = self._node("or", tree, self._and())
        return tree

    def _and(self) -> Tree:
        tree = self._relation()
        while self._take("&&"):
            tree = self._node("and", tree, self._relation())
        return tree

    def _relation(self) -> Tree:
        tree = self._sum()
        while relation := self._take(*_RELATIONS):
            tree = self._node(relation, tree, self._sum())
        return tree

    def _sum(self) -> Tree:
        tree = self._product()
        while sign := self._take("+", "-"):
            tree = self._node(sign, tree, self._product())
        return tree

    def _product(self) -> Tree:
        tree = self._unary()
        while sign := self._take("*", "/", "%"):
            tree = self._node(sign, tree, self._unary())
        return tree

    def _unary(self) -> Tree:
        signs: list[str] = []
        while sign := self._take("!", "-"):
            signs.append(sign)
        tree = self._member()
        for sign in reversed(signs):
            tree = self._node("not" if sign == "!" else "neg", tree)
        return tree

    def _member(self) -> Tree:
        tree = self._primary()
        while True:
            if self._take("."):
                name = self._word()
                is_call = self._take("(") is not None
                tree = self._method(tree, name) if is_call else self._get(tree, ["lit", name])
            elif self._take("["):
                key = self._conditional()
                self._expect("]")
                tree = self._get(tree, key)
            else:
                return tree

    def _get(self, tree: Tree, key: Tree) -> Tree:
        """Return an index; one with a fixed name into a path makes the path longer."""
        if tree[0] == "path" and key[0] == "lit" and _is_name(key[1]):
            return self._node("path", [*tree[1], str(key[1])])
        return self._node("get", tree, key)

    def _primary(self) -> Tree:
        token = self._peek()
        if self._take("("):
            tree = self._conditional()
            self._expect(")")
            return tree
        if self._take("["):
            return self._node("list", self._list_until("]"))
        if token.kind == "number":
            self._next += 1
            return self._node("lit", self._number(token))
        if token.kind == "text":
            self._next += 1
            return self._node("lit", self._unquoted(token))
        if token.kind == "word":
            self._next += 1
            return self._named(token)
        return self._fail("a value is expected")

    def _named(self, token: _Token) -> Tree:
        name = token.text
        if name in _LITERALS:
            return self._node("lit", _LITERALS[name])
        if self._take("("):
            if name == "has":
                tree = self._conditional()
                self._expect(")")
                return self._node("!=", tree, ["lit", None])
            return self._call(name, self._list_until(")"))
        if name in self._variables:
            return self._node("var", name)
        if name not in ROOTS:
            self._fail_at(token.at, f"a path begins with {' or '.join(ROOTS)}, as in event.data.id")
        return self._node("path", [name])

    def _method(self, tree: Tree, name: str) -> Tree:
        if name not in MACROS:
            return self._call(name, [tree, *self._list_until(")")])
        if self._variables:
            self._fail(f".{name}() inside of another list macro is not supported")
        variable = self._word()
        if variable in ROOTS or variable in _LITERALS:
            self._fail(f"{variable} cannot be a variable")
        self._expect(",")
        self._variables.append(variable)
        body = self._conditional()
        self._variables.pop()
        self._expect(")")
        return self._node(name, tree, variable, body)

    def _call(self, name: str, arguments: Sequence[Tree]) -> Tree:
        name = _ALIASES.get(name, name)
        if name not in FUNCTIONS:
            known = ", ".join((*FUNCTIONS, "has", *MACROS))
            self._fail(f"the function {name}() is not supported; there are {known}")
        if len(arguments) != FUNCTIONS[name]:
            self._fail(f"{name}() takes {FUNCTIONS[name]}, not {len(arguments)}")
        return self._node("call", name, *arguments)

    def _list_until(self, end: str) -> list[Tree]:
        trees: list[Tree] = []
        while not self._take(end):
            if trees:
                self._expect(",")
                if self._take(end):
                    break
            trees.append(self._conditional())
        return trees

    def _number(self, token: _Token) -> int | float:
        if len(token.text) > _LONGEST_NUMBER:
            self._fail_at(token.at, f"a number may have {_LONGEST_NUMBER} digits")
        if token.text[:2].lower() == "0x":
            return int(token.text, 16)
        number = float(token.text)
        if number in (float("inf"), float("-inf")):
            self._fail_at(token.at, "this number is too large")
        return int(token.text) if token.text.isdecimal() else number

    def _unquoted(self, token: _Token) -> str:
        if _ESCAPES.fullmatch(token.text[1:-1]):
            try:
                text = str(ast.literal_eval(token.text))
                text.encode()
            except (SyntaxError, ValueError):
                text = "\0"  # half of a surrogate pair, or no character
            if "\0" not in text:
                return text
        return self._fail_at(
            token.at, "this text has an escape that does not exist, or cannot be kept"
        )


def _is_name(value: object) -> bool:
    return isinstance(value, str) or (type(value) is int and value >= 0)
