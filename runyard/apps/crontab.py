"""Cron expressions as applications write them: five fields, and a time zone in front."""

import re

from runyard.errors import InvalidOption
from runyard.functions.triggers import Cron
from runyard.syntax.durations import quoted

_ZONE = re.compile(r"\s*(?:CRON_)?TZ=(\S+)\s+(.*)", re.DOTALL)
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTH_NAMES = (
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"
)  # fmt: skip
_DAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_DAYS = {name: number for number, name in enumerate(_DAY_NAMES)}
_PART = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/([0-9]{1,2}))?")
# Each field: its name, its bounds, and the words for its values.
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _DAYS),
)


def parse_cron(text: str) -> Cron:
    """Return a schedule from its text: `TZ=Europe/Paris 0 9 * * 1-5`.

    As in Inngest, a time at which the previous run goes on still starts another one; of the times
    that were missed the last one is made up for. Raises `InvalidOption` for what is no schedule.
    """
    match = _ZONE.fullmatch(text)
    zone, expression = (match[1], match[2]) if match else ("UTC", text)
    fields = _MACROS.get(expression.strip().lower(), expression).lower().split()
    if len(fields) != len(_FIELDS):
        raise InvalidOption(
            f"{quoted(text)} is not a cron expression: write minute hour day month weekday, as in"
            " '0 6 * * 1-5', with TZ=Europe/Paris in front for another zone than UTC"
        )
    for field, (name, least, most, words) in zip(fields, _FIELDS, strict=True):
        if not all(_is_part(part, least, most, words) for part in field.split(",")):
            raise InvalidOption(
                f"{quoted(text)} is not a cron expression: its {name} is {quoted(field)}; give"
                f" numbers from {least} to {most}"
            )
    return Cron(" ".join(fields), timezone=zone, overlap="allow", catch_up="last")


def _is_part(part: str, least: int, most: int, words: dict[str, int]) -> bool:
    match = _PART.fullmatch(part)
    if match is None or (match[1] == "*" and match[2]) or match[3] == "0":
        return False
    ends = [_number(end, words) for end in match.group(1, 2) if end not in (None, "*")]
    return all(least <= end <= most for end in ends) and ends == sorted(ends)


def _number(text: str, words: dict[str, int]) -> int:
    return words.get(text, int(text) if re.fullmatch("[0-9]{1,2}", text) else -1)
