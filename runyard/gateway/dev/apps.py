"""The applications with Inngest's SDKs: what they serve, how their last registration went."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from runyard.apps import catalog
from runyard.apps.discovery import problems
from runyard.apps.registration import shown_url
from runyard.apps.sync import caller, sync
from runyard.gateway.dev.page import Action, Page, Values, Visit
from runyard.gateway.http.endpoint import not_found
from runyard.settings import settings

_APPS = "/dev/apps"


def list_apps(visit: Visit) -> Values:
    """All applications."""
    del visit
    rows = catalog.apps()
    known = {row["url"] for row in rows}
    return {
        "apps": [
            {
                **row,
                "shown_url": shown_url(row["url"]),
                "functions": _functions(row["functions"]),
            }
            for row in rows
        ],
        "absent": {shown_url(url): why for url, why in problems().items() if url not in known},
        "has_key": settings().signing_key is not None,
        "port": settings().port,
    }


def _functions(functions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**function, "starts": _starts(function)} for function in functions]


def _starts(function: Mapping[str, Any]) -> str:
    """What starts a function, in the words of the application."""
    triggers = function["triggers"] if isinstance(function["triggers"], list) else []
    return ", ".join(map(_words, triggers)) or "other functions only"


def _words(trigger: Mapping[str, Any]) -> str:
    fields = {name.lower(): value for name, value in trigger.items() if value}
    if "cron" in fields:
        return f"the schedule {fields['cron']}"
    condition = f" if {fields['expression']}" if "expression" in fields else ""
    return f"{fields['event']}{condition}"


def sync_app(visit: Visit) -> str:
    """Ask an application to register."""
    asyncio.run(_sync(visit.form_value("url").strip()))
    return _APPS


async def _sync(url: str) -> None:
    async with caller() as client:
        await sync(url, client)


def remove_app(visit: Visit) -> str:
    """Remove an application."""
    name = visit.form_value("name")
    if not catalog.remove(name):
        raise not_found("application", name[:200])
    return _APPS


PAGES = [Page("/apps", "apps", list_apps, menu="Apps", refresh_seconds=1.0)]
ACTIONS = [Action("/apps/sync", sync_app), Action("/apps/remove", remove_app)]
