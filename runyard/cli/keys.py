"""`runyard keys`: create, list and revoke API keys."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from runyard.cli.errors import reported
from runyard.cli.input import first_line
from runyard.cli.terminal import echo


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help="send, read or manage (repeatable).",
)
@click.option(
    "--event",
    "events",
    multiple=True,
    help="Restrict the key to events with this name, wildcards allowed (repeatable).",
)
@click.option(
    "--tenant", help="The key's owner: the keys of one tenant share their idempotency keys."
)
@click.option("--rate", type=float, help="Requests per second (default: RUNYARD_KEY_RATE_LIMIT).")
@click.option("--expires-in", help="How long the key is valid: 90d.")
@click.option(
    "--stdin",
    "from_stdin",
    is_flag=True,
    help="Read the key from standard input, to register one that clients already use.",
)
@reported
def create(
    name: str,
    scopes: tuple[str, ...],
    events: tuple[str, ...],
    tenant: str | None,
    rate: float | None,
    expires_in: str | None,
    from_stdin: bool,
) -> None:
    """Create a key called NAME and print it. It cannot be shown again."""
    from runyard.engine import api_keys
    from runyard.syntax.durations import seconds

    expires_at = None
    if expires_in:
        lifetime = timedelta(seconds=seconds(expires_in, "--expires-in", least=1))
        expires_at = datetime.now(UTC) + lifetime
    key_id, key = api_keys.create(
        name,
        scopes,
        events=events,
        tenant=tenant,
        per_second=rate,
        expires_at=expires_at,
        key=first_line(sys.stdin.buffer) if from_stdin else None,
    )
    echo(f"key {key_id}; only its hash is stored, so it cannot be shown again", err=True)
    if not from_stdin:
        click.echo(key)


@keys.command("list")
@reported
def list_keys() -> None:
    """List all keys by their first characters."""
    from runyard.engine import api_keys

    rows = api_keys.listed()
    if not rows:
        echo("No API keys yet: runyard keys create NAME --scope send")
    for row in rows:
        only = f"  only {', '.join(row['events'])}" if row["events"] else ""
        tenant = f"  tenant {row['tenant']}" if row["tenant"] else ""
        expires = f"  until {row['expires_at']:%Y-%m-%d}" if row["expires_at"] else ""
        used = f"used {row['used_at']:%Y-%m-%d %H:%M}" if row["used_at"] else "never used"
        echo(
            f"{row['id']}  {row['hint']}...  {row['name']}  {row['environment']}  "
            f"{', '.join(row['scopes'])}{only}{tenant}  {_state(row)}{expires}  {used}"
        )


def _state(row: dict[str, Any]) -> str:
    if row["revoked_at"]:
        return "REVOKED"
    if row["expires_at"] and row["expires_at"] < datetime.now(UTC):
        return "EXPIRED"
    return "valid"


@keys.command()
@click.argument("key")
@reported
def revoke(key: str) -> None:
    """Revoke the key with this id or name; web processes reject it within a second."""
    from runyard.engine import api_keys

    echo(f"{api_keys.revoke(key)} is revoked.")
