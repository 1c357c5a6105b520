"""The applications and their functions in the database.

A function of an application is a row of `runyard.functions` like any other. What else there is to
know of it is in `runyard.app_functions`, from which every process makes the function again.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha1
from typing import Any

import psycopg

from runyard.apps.options import Schedule
from runyard.apps.registration import (
    App,
    AppFunction,
    function_name,
    host_of,
    parse_function,
    spellings,
)
from runyard.errors import InvalidOption
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all, fetch_one

CHANNEL = "runyard_apps"
# The id under which applications find the functions of the project's code.
CODE = "runyard"
_CACHED = 2_000
_FRESH_SECONDS = 1.0
_log = logging.getLogger("runyard.apps")


@dataclass(frozen=True)
class RemoteFunction:
    """A function that an application serves, as it is called.

    Attributes
    ----------
    function
        What starts it, and how.
    app, slug, title
        The application, the function's id in the protocol, and what people call it.
    url
        Where it is called.
    schedules
        Its cron triggers.
    """

    function: Function
    app: str
    slug: str
    title: str
    url: str
    schedules: tuple[Schedule, ...]


def location_of(app: str) -> str:
    """Return the code location that owns an application's functions."""
    return f"app {app}"


def write(app: App, asked: str = "") -> bool:
    """Write what an application has registered; return whether it differs from what it had.

    `asked` is what this server has asked it with, if it has: `asked_with` finds it again.

    Functions that it has no longer are retired: nothing new starts them, and runs that have begun
    go on. An application that was at another host before is written all the same, with a warning.
    Raises `InvalidOption` for what cannot be together with what others have registered.
    """
    try:
        with database.transaction() as connection:
            fetch_all(connection, "lock_apps")
            known = fetch_one(connection, "app", name=app.name)
            if known is not None and known["digest"] == app.digest:
                fetch_all(connection, "touch_app", name=app.name, asked=asked)
                return False
            _write(connection, _with_warning(app, known), asked)
    except psycopg.errors.SyntaxError as error:
        raise InvalidOption(
            f"this PostgreSQL does not accept a condition: {error.diag.message_primary}"
        ) from None
    _found.forget()
    registry.catch_up()
    registry.rekey()
    return True


def note_error(app: str, url: str, error: str, asked: str = "") -> None:
    """Note why an application could not be registered; what it has registered before stays."""
    with database.connection() as connection:
        fetch_all(connection, "note_app_error", name=app, url=url, error=error, asked=asked)


def asked_with(asked: str) -> Sequence[Row]:
    """Return the applications that have answered what this server has asked with."""
    with database.connection() as connection:
        return fetch_all(connection, "apps_asked", asked=asked)


def apps() -> Sequence[Row]:
    """Return the applications with their functions, sorted by name."""
    with database.connection() as connection:
        return fetch_all(connection, "apps")


def names_at(url: str) -> Sequence[str]:
    """Return the names of the applications that are served at a URL, however this machine is named.

    Raises `InvalidOption` for what is no URL.
    """
    with database.connection() as connection:
        return [row["name"] for row in fetch_all(connection, "apps_at", urls=spellings(url))]


def remove(name: str) -> bool:
    """Remove an application and retire its functions; return whether there was one."""
    with database.transaction() as connection:
        fetch_all(connection, "lock_apps")
        fetch_all(connection, "retire_functions", names=[], location=location_of(name))
        removed = fetch_one(connection, "remove_app", name=name)
    _found.forget()
    return removed is not None


def remote_function(name: str) -> RemoteFunction | None:
    """Return a function of an application by its name; None if it is no application's."""
    return _one(name=name, slug="")


def remote_function_of(slug: str) -> RemoteFunction | None:
    """Return a function of an application by its id in the protocol; None if there is none."""
    return _one(name="", slug=slug)


def name_for(id: str, app: str) -> str:
    """Return the name here of the function that an application means by an id.

    That is one of an application, by its id in the protocol, or one of the project's code, by its
    name: as it is, or behind the id of an application, which the SDKs put before it. `app` is the
    application that asks, and `runyard` stands for the project's code. An id that means no function
    is returned as it is.
    """
    remote = remote_function_of(id)
    if remote is not None:
        return remote.function.name
    names = [id.removeprefix(f"{prefix}-") for prefix in (CODE, app)]
    return next((name for name in names if name != id and registry.invoking_event(name)), id)


def remote_functions() -> Sequence[RemoteFunction]:
    """Return all functions that applications have now, sorted by name."""
    return _all("active_app_functions")


def ending_functions() -> Sequence[RemoteFunction]:
    """Return the functions that applications have no longer, and whose runs have not all ended."""
    return _all("ending_app_functions")


def functions_digest() -> str:
    """Return what identifies the functions that applications have now."""
    return str(_present()["digest"])


def has_functions() -> bool:
    """Whether applications have functions, or had some whose runs have not all ended."""
    return bool(_present()["functions"] or ending_functions())


def _present() -> Row:
    with database.connection() as connection:
        row = fetch_one(connection, "apps_digest")
    assert row is not None
    return row


def _all(query: str) -> Sequence[RemoteFunction]:
    with database.connection() as connection:
        made = [_made(row) for row in fetch_all(connection, query)]
    return [remote for remote in made if remote is not None]


def _one(*, name: str, slug: str) -> RemoteFunction | None:
    with database.connection() as connection:
        row = fetch_one(connection, "app_function", name=name, slug=slug)
    return None if row is None else _made(row)


def _made(row: Row) -> RemoteFunction | None:
    return _remote(
        row["function"], row["app"], row["slug"], row["url"], json.dumps(row["definition"])
    )


@lru_cache(maxsize=_CACHED)
def _remote(name: str, app: str, slug: str, url: str, definition: str) -> RemoteFunction | None:
    try:
        made = parse_function(slug, url, json.loads(definition))
    except InvalidOption as error:
        _log.warning("%s of %s cannot be read any more: %s", slug, app, error)
        return None
    function = replace(made.function, name=name, job=name)
    return RemoteFunction(function, app, slug, made.title, made.url, made.schedules)


class _Found:
    """The functions that were looked up in the last second, so that hot paths read no row each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, Function]] = {}

    def find(self, name: str) -> Function | None:
        """Return a function of an application; one that is unknown is looked up each time."""
        at, function = self._found.get(name, (-math.inf, None))
        if time.monotonic() - at < _FRESH_SECONDS:
            return function
        remote = remote_function(name)
        if remote is None:
            self._found.pop(name, None)
            return None
        if len(self._found) >= _CACHED:
            self._found = {}
        self._found[name] = (time.monotonic(), remote.function)
        return remote.function

    def forget(self) -> None:
        """Forget all, when functions have changed."""
        self._found = {}


def _with_warning(app: App, known: Row | None) -> App:
    before, now = host_of(known["url"]) if known else "", host_of(app.url)
    if before in ("", now):
        return app
    warning = (
        f"it was at {before} before and has registered from {now}: its events go there now. If that"
        f" is another application, give it another id than {app.name}"
    )
    _log.warning("the application %s: %s", app.name, warning)
    return replace(app, warnings=(warning, *app.warnings))


def _write(connection: Connection, app: App, asked: str) -> None:
    named = _named(connection, app)
    rows = json.dumps([function.to_row() for function in named.values()])
    location = location_of(app.name)
    fetch_all(connection, "register_functions", functions=rows, location=location)
    fetch_all(connection, "register_triggers", functions=rows)
    names = [function.name for function in named.values()]
    fetch_all(connection, "retire_functions", names=names, location=location)
    details = json.dumps(
        [_details(each, named[each.slug].name) for each in app.functions], ensure_ascii=False
    )
    fetch_all(connection, "forget_app_functions", functions=details)
    fetch_all(connection, "write_app_functions", app=app.name, functions=details)
    fetch_all(
        connection,
        "write_app",
        name=app.name,
        url=app.url,
        sdk=app.sdk,
        framework=app.framework,
        version=app.version,
        digest=app.digest,
        warnings=list(app.warnings),
        asked=asked,
    )


def _details(function: AppFunction, name: str) -> Mapping[str, Any]:
    return {
        "name": name,
        "slug": function.slug,
        "title": function.title,
        "url": function.url,
        "digest": function.digest,
        "definition": function.definition,
    }


def _named(connection: Connection, app: App) -> Mapping[str, Function]:
    """Return the functions by their ids, each with a name that no other function has."""
    slugs = [function.slug for function in app.functions]
    known: dict[str, str] = {}
    for row in fetch_all(connection, "named_app_functions", slugs=slugs):
        if row["app"] != app.name and row["active"]:
            raise InvalidOption(
                f"the application {row['app']} has a function {row['slug']} already: rename one"
            )
        known[row["slug"]] = row["name"]
    wished = [function_name(slug) for slug in slugs]
    rows = fetch_all(connection, "taken_names", names=wished)
    taken = {row["name"] for row in rows} | set(known.values())
    in_code = {row["name"] for row in rows if row["in_code"]}
    named: dict[str, Function] = {}
    for each in app.functions:
        name = known.get(each.slug) or _free_name(each.slug, taken, in_code)
        taken.add(name)
        named[each.slug] = replace(each.function, name=name, job=name)
    return named


def _free_name(slug: str, taken: set[str], in_code: set[str]) -> str:
    """Return a name; one that is taken, or may be a word with a meaning, gets four digits more.

    Raises `InvalidOption` for the name of a function that the project's code has.
    """
    name = function_name(slug)
    if name in in_code:
        raise InvalidOption(
            f"function {slug} would be called {name} here, and the project's code has a function"
            f" of this name: rename one of them"
        )
    if name not in taken and "_" in name:
        return name
    return f"{name}_{sha1(slug.encode()).hexdigest()[:4]}"  # noqa: S324 (no secret)


_found = _Found()
registry.find_also(_found.find)
