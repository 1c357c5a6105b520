"""An event as code that sends it: curl, Python, TypeScript, SQL."""

import json
import shlex
from pprint import pformat

from runyard.events import Event

_WIDTH = 100


def snippets(event: Event, address: str, *, key: bool) -> dict[str, str]:
    """The same event in every language, by its name.

    Parameters
    ----------
    event
        What is sent.
    address
        Where this web process is reached: `http://localhost:8290`.
    key
        Whether a key is needed: it is taken from the environment then.
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
    return f"curl {where} -H 'content-type: application/json' -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"


def _python(event: Event) -> str:
    more = "".join(
        f", {field}={value!r}"
        for field in ("id", "ts")
        if (value := getattr(event, field)) is not None
    )
    data = pformat(dict(event.data), width=_WIDTH, sort_dicts=False)
    return f"from runyard import send\n\nsend({event.name!r}, {data}{more})"


def _typescript(body: dict[str, object], address: str, key: bool) -> str:
    where = f"`{address}/e/${{process.env.RUNYARD_KEY}}`" if key else json.dumps(f"{address}/e/dev")
    written = json.dumps(body, indent=2, ensure_ascii=False).replace("\n", "\n  ")
    # JSON is TypeScript, but for two characters that may not stand in its text as they are everywhere.
    written = written.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return (
        f"const answer = await fetch({where}, {{\n"
        f'  method: "POST",\n  headers: {{ "content-type": "application/json" }},\n  body: JSON.stringify({written}),\n}});\n'
        "const { ids } = await answer.json();"
    )


def _sql(event: Event) -> str:
    more = f", id => {_quoted(event.id)}" if event.id is not None else ""
    more += f", ts => to_timestamp({event.ts / 1000:.3f})" if event.ts is not None else ""
    return f"SELECT runyard.send({_quoted(event.name)}, {_quoted(json.dumps(dict(event.data), ensure_ascii=False))}{more});"


def _quoted(text: str) -> str:
    """A literal that means the same whatever `standard_conforming_strings` is."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in doubled else f"'{doubled}'"
