"""The commands that make, list and revoke the keys of the HTTP API."""

import sys
from datetime import UTC, datetime, timedelta

import click

from runyard.cli.errors import reported
from runyard.cli.input import first_line
from runyard.cli.terminal import echo


@click.group()
def keys() -> None:
    """Make, list and revoke the keys of the HTTP API."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help="send, read or manage (may be repeated).",
)
@click.option(
    "--event",
    "events",
    multiple=True,
    help="An event name that it may send and read, with wildcards (may be repeated); all by default.",
)
@click.option("--tenant", help="Whose it is: keys of one tenant share the ids of events.")
@click.option("--rate", type=float, help="Requests a second; RUNYARD_KEY_RATE_LIMIT by default.")
@click.option("--expires-in", help="When it ends by itself: 90d.")
@click.option(
    "--stdin",
    "given",
    is_flag=True,
    help="Take the key from standard input: one that a client has already.",
)
@reported
def create(
    name: str,
    scopes: tuple[str, ...],
    events: tuple[str, ...],
    tenant: str | None,
    rate: float | None,
    expires_in: str | None,
    given: bool,
) -> None:
    """Make a key for NAME and print it, this one time."""
    from runyard.engine import api_keys as store
    from runyard.syntax.durations import seconds

    ends = (
        datetime.now(UTC) + timedelta(seconds=seconds(expires_in, "--expires-in", least=1))
        if expires_in
        else None
    )
    key = first_line(sys.stdin.buffer) if given else None
    key_id, made = store.create(
        name, scopes, events=events, tenant=tenant, per_second=rate, expires_at=ends, key=key
    )
    echo(f"key {key_id}; it is not kept and cannot be shown again", err=True)
    if not given:
        click.echo(made)


@keys.command("list")
@reported
def list_keys() -> None:
    """List all keys, by how they begin."""
    from runyard.engine import api_keys as store

    rows = store.listed()
    if not rows:
        echo("None yet: runyard keys create NAME --scope send")
    for row in rows:
        state = (
            "REVOKED"
            if row["revoked_at"]
            else "EXPIRED"
            if row["expires_at"] and row["expires_at"] < datetime.now(UTC)
            else "valid"
        )
        used = f"used {row['used_at']:%Y-%m-%d %H:%M}" if row["used_at"] else "never used"
        only = f"  only {', '.join(row['events'])}" if row["events"] else ""
        whose = f"  of {row['tenant']}" if row["tenant"] else ""
        ends = f"  until {row['expires_at']:%Y-%m-%d}" if row["expires_at"] else ""
        echo(
            f"{row['id']}  {row['hint']}...  {row['name']}  {row['environment']}  {', '.join(row['scopes'])}{only}{whose}  {state}{ends}  {used}"
        )


@keys.command()
@click.argument("key")
@reported
def revoke(key: str) -> None:
    """Take the key with this id or name out of use, everywhere within a second."""
    from runyard.engine import api_keys as store

    echo(f"{store.revoke(key)} is revoked.")
