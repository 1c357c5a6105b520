"""Code that sends an event: curl, Python, TypeScript and SQL."""

import json
import shlex
from pprint import pformat

from runyard.events import Event

_WIDTH = 100


def snippets(event: Event, address: str, *, key: bool) -> dict[str, str]:
    """The code by language.

    Parameters
    ----------
    event
        The event to send.
    address
        The base URL of this web process: `http://localhost:8290`.
    key
        Whether a key is required; the code reads it from the environment.
    """
    body: dict[str, object] = {"name": event.name, "data": dict(event.data)}
    body |= {field: value for field in ("id", "ts") if (value := getattr(event, field)) is not None}
    return {
        "curl": _curl(body, address, key),
        "Python": _python(event),
        "TypeScript": _typescript(body, address, key),
        "SQL": _sql(event),
    }


def _curl(body: dict[str, object], address: str, key: bool) -> str:
    where = f'"{address}/e/$RUNYARD_KEY"' if key else f"{address}/e/dev"
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {where} -H 'content-type: application/json' -d {data}"


def _python(event: Event) -> str:
    options = "".join(
        f", {field}={value!r}"
        for field in ("id", "ts")
        if (value := getattr(event, field)) is not None
    )
    data = pformat(dict(event.data), width=_WIDTH, sort_dicts=False)
    return f"from runyard import send\n\nsend({event.name!r}, {data}{options})"


def _typescript(body: dict[str, object], address: str, key: bool) -> str:
    where = f"`{address}/e/${{process.env.RUNYARD_KEY}}`" if key else json.dumps(f"{address}/e/dev")
    written = json.dumps(body, indent=2, ensure_ascii=False).replace("\n", "\n  ")
    # JSON is TypeScript, except for two characters that not every version allows unescaped.
    written = written.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return (
        f"const response = await fetch({where}, {{\n"
        '  method: "POST",\n'
        '  headers: { "content-type": "application/json" },\n'
        f"  body: JSON.stringify({written}),\n"
        "});\n"
        "const { ids } = await response.json();"
    )


def _sql(event: Event) -> str:
    data = json.dumps(dict(event.data), ensure_ascii=False)
    options = f", id => {_quoted(event.id)}" if event.id is not None else ""
    options += f", ts => to_timestamp({event.ts / 1000:.3f})" if event.ts is not None else ""
    return f"SELECT runyard.send({_quoted(event.name)}, {_quoted(data)}{options});"


def _quoted(text: str) -> str:
    """A literal that does not depend on `standard_conforming_strings`."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in doubled else f"'{doubled}'"
