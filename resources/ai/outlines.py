"""Outlines: the JSON shape that is requested, and how a model's answer is read.

An answer is read as JSON or as lines; an introduction or a closing remark is not a heading.
"""

import json
import re
from itertools import islice
from typing import Any

SHAPE: dict[str, Any] = {
    "type": "object",
    "properties": {"headings": {"type": "array", "items": {"type": "string"}}},
    "required": ["headings"],
    "additionalProperties": False,
}
_LONGEST = 300
_LONGEST_LINE = 200  # of a line without a number that may be a heading
_DEEPEST = 5  # objects in each other
_MOST_STARTS = 10  # of JSON in a text
_TITLES = ("heading", "title", "name", "section")
_NUMBERED = re.compile(
    r"^(?P<indent>\s*)[#*>\s]{0,20}(?:\d{1,3}(?:[.):、．。）]|\s*[-–]\s)|[一二三四五六七八九十]{1,3}[、.．]"
    r"|[IVX]{1,5}[.)])(?!\d)"
)
_HASHES = re.compile(r"^\s*(#{1,6})\s")
_BULLET = re.compile(r"^(?P<indent>\s*)[-*•·]\s")
_BEFORE = re.compile(
    r"^[\s#*>•·\-_]*(?:(?:\d{1,3}(?:\.\d{1,3})*[.):、．。）]?|[一二三四五六七八九十]{1,3}[、.．]|[IVX]{1,5}[.)])"
    r"(?=[\s*#\u3000、]|[^\x00-\x7f]))?[\s*_]*"
)
_AFTER = "*_#" + "".join(filter(str.isspace, map(chr, range(0x3001))))
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"\s*[,\]]')


def headings(text: str, most: int) -> list[str]:
    """The headings of an outline without their numbers and marks, at most `most`.

    Empty where the text contains no outline.
    """
    titles = _of_json(text)
    lines = titles or _of_lines(text)
    bare = (_bare(line) for line in lines)
    return [line for line in bare if any(map(str.isalnum, line))][:most]


def _bare(line: str) -> str:
    return _BEFORE.sub("", line, count=1).rstrip(_AFTER)[:_LONGEST]


def _of_json(text: str) -> list[str]:
    """The headings of JSON anywhere in a text, even when it was cut off."""
    for start in islice(re.finditer(r"[{\[]", text), _MOST_STARTS):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        if titles := _of_value(value):
            return titles
    begun = re.search(r'\{\s{0,99}"headings"\s{0,99}:\s{0,99}\[', text)
    return _STRING.findall(text[begun.end() :]) if begun else []


def _of_value(value: Any) -> list[str]:
    for _ in range(_DEEPEST):
        if not isinstance(value, dict):
            break
        value = next((inner for inner in value.values() if isinstance(inner, list | dict)), None)
    return [title for entry in value if (title := _title(entry))] if isinstance(value, list) else []


def _title(value: Any) -> str:
    """A heading in a JSON list: a string, or an object that contains one."""
    if isinstance(value, dict):
        value = next((value[key] for key in _TITLES if isinstance(value.get(key), str)), "")
    return " ".join(value.split()) if isinstance(value, str) else ""


def _of_lines(text: str) -> list[str]:
    """Numbered lines, else Markdown headings, else bullets; else whatever may be a heading."""
    lines = [line for line in text.splitlines() if line.strip("`~ \t")]
    numbered, bullets = _top(_NUMBERED, lines), _top(_BULLET, lines)
    if numbered:
        # Bullets between two numbers belong to the first of them.
        after = [at for at in bullets if at > numbered[-1]]
        goes_on = len(after) == len(bullets) and len(numbered) > 1
        return [lines[at] for at in numbered + (after if goes_on else [])]
    marked = _one_level(lines)
    if marked and (len(marked) > 1 or not bullets):
        return marked
    if bullets:
        return [lines[at] for at in bullets]
    return [line for line in lines if _may_be_heading(line.strip())]


def _top(pattern: re.Pattern[str], lines: list[str]) -> list[int]:
    """The indexes of a list's top-level lines."""
    matches = {
        at: match for at, line in enumerate(lines) if (match := pattern.match(line[:_LONGEST]))
    }
    least = min((len(match["indent"]) for match in matches.values()), default=0)
    return [at for at, match in matches.items() if len(match["indent"]) == least]


def _one_level(lines: list[str]) -> list[str]:
    """Markdown headings of the highest level that has several: a single one is the title."""
    levels: dict[int, list[str]] = {}
    for line in lines:
        if match := _HASHES.match(line):
            levels.setdefault(len(match[1]), []).append(line)
    several = [level for level in levels if len(levels[level]) > 1]
    return levels[min(several or levels)] if levels else []


def _may_be_heading(line: str) -> bool:
    """Whether a line looks like a heading, not like a sentence, an introduction or JSON."""
    ends = line.endswith((":", "：", ".", "!", "。", "！"))
    return len(line) <= _LONGEST_LINE and not ends and not line.startswith(tuple('{}[]"'))
