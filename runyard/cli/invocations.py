"""The commands that act on invocations and functions, and show logs.

They replay, cancel and dismiss in bulk, list dead letters, and pause and resume functions.
"""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo
from runyard.errors import RunyardError
from runyard.text.redaction import redact

if TYPE_CHECKING:
    from runyard.engine.bulk import Action, Progress

_SELECTION = [
    click.option("--function", help="Only invocations of this function."),
    click.option("--status", multiple=True, help="Only with this status (repeatable)."),
    click.option(
        "--since",
        help="Only events received at or after this: a date, a time, a weekday, 'yesterday', or "
        "a duration ('2h' for two hours ago).",
    ),
    click.option("--until", help="Only events received before this, given like --since."),
    click.option("--error", help="Only errors that contain this text."),
    click.option(
        "--filter",
        "filter",
        help="Only events that match this SQL/JSON path: '$.data.country == \"CH\"'.",
    ),
    click.option("--event", "events", multiple=True, help="Only this event id (repeatable)."),
    click.option(
        "--invocation",
        "invocations",
        multiple=True,
        type=int,
        help="Only this invocation id (repeatable).",
    ),
    click.option("--dry-run", is_flag=True, help="Print how many there are, and change nothing."),
    click.option("--yes", is_flag=True, help="Do not ask for confirmation."),
    click.option(
        "--resume",
        "bulk",
        help="Resume the bulk operation with this id; `runyard bulks` lists them.",
    ),
]


def _selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select invocations, the same for every command."""
    for option in reversed(_SELECTION):
        command = option(command)
    return command


@click.command()
@_selecting
@click.option(
    "--keep-steps",
    is_flag=True,
    help="Keep the results of completed steps; without it, start from the first step.",
)
@reported
def replay(dry_run: bool, yes: bool, bulk: str | None, keep_steps: bool, **selected: Any) -> int:
    """Run past events again, as new invocations.

    Without --status, selects failed and cancelled invocations; with --since, --event or
    --invocation, all that have ended.
    """
    return _in_bulk("replay", dry_run, yes, bulk, selected, keep_steps)


@click.command()
@_selecting
@reported
def cancel(dry_run: bool, yes: bool, bulk: str | None, **selected: Any) -> int:
    """Cancel invocations that have not ended.

    A running one leaves its run at the next step.
    """
    return _in_bulk("cancel", dry_run, yes, bulk, selected)


@click.command()
@_selecting
@reported
def dismiss(dry_run: bool, yes: bool, bulk: str | None, **selected: Any) -> int:
    """Remove failures from the dead letters."""
    return _in_bulk("dismiss", dry_run, yes, bulk, selected)


@click.command("run-now")
@click.argument("invocations", nargs=-1, type=int, required=True)
@reported
def run_now(invocations: tuple[int, ...]) -> int:
    """Run sleeping or delayed invocations now.

    This includes those that wait for a retry. Flow control still applies.
    """
    from runyard.store import database
    from runyard.store.queries import fetch_all

    with database.connection() as connection:
        rows = fetch_all(connection, "run_invocations_now", invocations=list(invocations))
    due = {row["id"] for row in rows}
    for invocation in invocations:
        outcome = "due now" if invocation in due else "not waiting for a time, left as it is"
        echo(f"{invocation}: {outcome}")
    return 0 if due else 1


def _in_bulk(
    action: "Action",
    dry_run: bool,
    yes: bool,
    bulk: str | None,
    selected: dict[str, Any],
    keep_steps: bool = False,
) -> int:
    """Count what is selected, ask for confirmation, and act on it."""
    from runyard.engine.bulk import Selection, count, perform, raise_for_missing, resume
    from runyard.store import database
    from runyard.syntax.times import parse_time

    if bulk is not None:
        return _show_progress(action, resume(bulk))
    for name in ("since", "until"):
        if selected[name] is not None:
            selected[name] = parse_time(selected[name], f"--{name}")
    selection = Selection(**selected)
    total = count(selection, action)
    if not total:
        with database.connection() as connection:
            raise_for_missing(connection, selection)
    noun = "invocation" if total == 1 else "invocations"
    echo(f"{total} {noun} to {action}{' (dry run: nothing was changed)' if dry_run else ''}")
    if dry_run or not total:
        return 0
    if not yes and sys.stdin.isatty() and not click.confirm(f"{action} them?"):
        return 1
    return _show_progress(action, perform(selection, action, keep_steps=keep_steps))


def _show_progress(action: str, progress: "Iterator[Progress]") -> int:
    last = next(progress)
    echo(f"bulk {last.bulk}; if it is interrupted: runyard {action} --resume {last.bulk}", err=True)
    with click.progressbar(length=max(1, last.total), file=sys.stderr, label=action) as bar:
        bar.update(last.done)
        for current in progress:
            bar.update(current.done - last.done)
            last = current
    echo(f"{last.done} done")
    return 0


@click.command()
@reported
def bulks() -> None:
    """List the latest bulk operations.

    These are replays, cancellations and dismissals of many invocations.
    """
    from runyard.engine import bulk

    rows = bulk.bulks()
    if not rows:
        echo("No bulk operations yet.")
    for row in rows:
        selection = {key: value for key, value in row["selection"].items() if value}
        state = "finished" if row["finished_at"] else "STOPPED"
        echo(
            f"{row['id']}  {row['action']:<7}  {row['done']} of {row['total']}  {state}  "
            f"{json.dumps(selection)}"
        )


@click.command("dead-letters")
@click.option("--function", help="Only of this function.")
@click.option("--id", "invocation", type=int, help="Only this one, with its data and traceback.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@reported
def dead_letters(function: str | None, invocation: int | None, limit: int) -> None:
    """List failures not yet replayed or dismissed."""
    from runyard.engine.bulk import Selection, raise_for_missing
    from runyard.engine.failures import described
    from runyard.store import database
    from runyard.store.queries import fetch_all

    with database.connection() as connection:
        rows = fetch_all(
            connection, "dead_letters", function=function, invocation=invocation, limit=limit
        )
        if not rows and function is not None:
            raise_for_missing(connection, Selection(function=function))
    if invocation is not None and not rows:
        raise RunyardError(
            f"invocation {invocation} is not a dead letter: it has not failed, or was replayed or "
            "dismissed"
        )
    if not rows:
        echo("No dead letters.")
    for row in rows:
        step = f"at {row['step']}: " if row["step"] else ""
        echo(
            f"{row['id']}  {row['finished_at']:%Y-%m-%d %H:%M:%S}  {row['function']}  "
            f"{row['event']}  {step}{redact(described(row))[:200]}"
        )
        if invocation is not None:
            echo(f"event {row['event_id']}, run {row['run_id']}")
            echo(f"{json.dumps(row['data'], indent=2)}\n{row['traceback']}", lines=True)


@click.command()
@click.argument("function")
@reported
def pause(function: str) -> None:
    """Pause a function.

    Its events are queued until it is resumed; runs in progress finish.
    """
    _set_paused(function, True)
    echo(f"{function} is paused; its events are queued until `runyard resume {function}`.")


@click.command()
@click.argument("function")
@reported
def resume(function: str) -> None:
    """Resume a paused function."""
    _set_paused(function, False)
    echo(f"{function} is resumed.")


def _set_paused(function: str, paused: bool) -> None:
    from runyard.engine.control import set_paused

    if not set_paused(function, paused):
        raise RunyardError(f"there is no function {function}; `runyard functions` lists them")


@click.command()
@click.argument("invocation", type=int)
@reported
def logs(invocation: int) -> None:
    """Print what the steps of INVOCATION printed and logged."""
    from runyard.engine.step_logs import latest_logs
    from runyard.store import database
    from runyard.store.queries import fetch_one

    with database.connection() as connection:
        known = fetch_one(connection, "invocation_status", invocation=invocation)
        rows = latest_logs(connection, invocation)
    if known is None:
        raise RunyardError(f"there is no invocation {invocation}")
    for row in rows:
        for at, level, text in row["lines"]:
            time = datetime.fromtimestamp(at, UTC)
            echo(f"{time:%Y-%m-%d %H:%M:%S}  {row['step']}  {level}  {text}")
        if row["dropped"]:
            echo(f"... {row['dropped']} more lines of {row['step']}")


commands = [logs, replay, cancel, dismiss, run_now, bulks, dead_letters, pause, resume]
