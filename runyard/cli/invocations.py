"""The commands that act on invocations: replay, cancel and dismiss many; dead letters; pause and resume functions."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo
from runyard.errors import RunyardError
from runyard.text.redaction import redact


def _selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that select invocations, the same for every command."""
    options = [
        click.option("--function", help="Of this function."),
        click.option("--status", multiple=True, help="With this status (may be repeated)."),
        click.option(
            "--since",
            help="Whose event came at or after this: a date, a time, a weekday, 'yesterday', or how long ago ('2h').",
        ),
        click.option("--until", help="Whose event came before this."),
        click.option("--error", help="Whose error contains this text."),
        click.option(
            "--filter", "filter", help="SQL/JSON path over the event: '$.data.country == \"CH\"'."
        ),
        click.option(
            "--event", "events", multiple=True, help="Of the event with this id (may be repeated)."
        ),
        click.option(
            "--invocation",
            "invocations",
            multiple=True,
            type=int,
            help="With this id (may be repeated).",
        ),
        click.option("--dry-run", is_flag=True, help="Only say how many there are."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option(
            "--resume",
            "bulk",
            help="Go on with a bulk that was stopped; `runyard bulks` lists them.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_selecting
@click.option(
    "--keep-steps", is_flag=True, help="Keep the steps that are done; from the start without it."
)
@reported
def replay(dry_run: bool, yes: bool, bulk: str | None, keep_steps: bool, **selected: Any) -> int:
    """Run the events of invocations again, as new invocations.

    Without a status: what failed or was cancelled; with --since, --event or --invocation everything that is final.
    """
    return _many("replay", dry_run, yes, bulk, selected, keep_steps)


@click.command()
@_selecting
@reported
def cancel(dry_run: bool, yes: bool, bulk: str | None, **selected: Any) -> int:
    """Cancel invocations that are not final: those that run leave their run at the next step."""
    return _many("cancel", dry_run, yes, bulk, selected)


@click.command()
@_selecting
@reported
def dismiss(dry_run: bool, yes: bool, bulk: str | None, **selected: Any) -> int:
    """Take final failures off the list of dead letters."""
    return _many("dismiss", dry_run, yes, bulk, selected)


@click.command("run-now")
@click.argument("invocations", nargs=-1, type=int, required=True)
@reported
def run_now(invocations: tuple[int, ...]) -> int:
    """Run invocations now that sleep or are queued for later, such as for another attempt; limits still hold."""
    from runyard.store import database
    from runyard.store.queries import fetch_all

    with database.connection() as connection:
        due = [
            row["id"]
            for row in fetch_all(connection, "run_these_now", invocations=list(invocations))
        ]
    for invocation in invocations:
        echo(
            f"{invocation}: {'due now' if invocation in due else 'waits for no time that could be cut short'}"
        )
    return 0 if due else 1


def _many(
    action: Any,
    dry_run: bool,
    yes: bool,
    bulk: str | None,
    selected: dict[str, Any],
    keep: bool = False,
) -> int:
    # click gives tuples for the options that may be repeated.
    from runyard.engine.bulk import Selection, count, perform, raise_for_missing, resume
    from runyard.store import database
    from runyard.syntax.times import parse_time

    if bulk is not None:
        return _show(action, resume(bulk))
    for name in ("since", "until"):
        if selected[name] is not None:
            selected[name] = parse_time(selected[name], f"--{name}")
    selection = Selection(**selected)
    found = count(selection, action)
    if not found:
        with database.connection() as connection:
            raise_for_missing(connection, selection)
    echo(f"{found} invocations to {action}{' (nothing was changed)' if dry_run else ''}")
    if dry_run or not found:
        return 0
    if not yes and sys.stdin.isatty() and not click.confirm(f"{action} them?"):
        return 1
    return _show(action, perform(selection, action, keep_steps=keep))


def _show(action: str, progress: "Iterator[Any]") -> int:
    first = next(progress)
    echo(f"bulk {first.bulk}; when it is stopped: runyard {action} --resume {first.bulk}", err=True)
    last = first
    with click.progressbar(length=max(1, first.total), file=sys.stderr, label=action) as bar:
        bar.update(first.done)
        for step in progress:
            bar.update(step.done - last.done)
            last = step
    echo(f"{last.done} done")
    return 0


@click.command()
@reported
def bulks() -> None:
    """List the latest bulk replays, cancels and dismissals."""
    from runyard.engine import bulk

    rows = bulk.bulks()
    if not rows:
        echo("There were none yet.")
    for row in rows:
        chosen = {key: value for key, value in row["selection"].items() if value}
        echo(
            f"{row['id']}  {row['action']:<7}  {row['done']} of {row['total']}  {'finished' if row['finished_at'] else 'STOPPED'}  {json.dumps(chosen)}"
        )


@click.command("dead-letters")
@click.option("--function", help="Only of this function.")
@click.option("--id", "invocation", type=int, help="One whole, with its data and traceback.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@reported
def dead_letters(function: str | None, invocation: int | None, limit: int) -> None:
    """List final failures that were neither replayed nor dismissed."""
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
            f"there is no dead letter {invocation}: it was replayed or dismissed, or has not failed for good"
        )
    if not rows:
        echo("None.")
    for row in rows:
        at = f"at {row['step']}: " if row["step"] else ""
        echo(
            f"{row['id']}  {row['finished_at']:%Y-%m-%d %H:%M:%S}  {row['function']}  {row['event']}  {at}{redact(described(row))[:200]}"
        )
        if invocation is not None:
            echo(f"event {row['event_id']}, run {row['run_id']}")
            echo(f"{json.dumps(row['data'], indent=2)}\n{row['traceback']}", lines=True)


@click.command()
@click.argument("function")
@reported
def pause(function: str) -> None:
    """Hold a function's invocations back until it is resumed; those that run go on."""
    _set_paused(function, True)
    echo(f"{function} is paused; its events wait. `runyard resume {function}` lets them go.")


@click.command()
@click.argument("function")
@reported
def resume(function: str) -> None:
    """Let the invocations of a paused function go."""
    _set_paused(function, False)
    echo(f"{function} is resumed; its events go on.")


def _set_paused(function: str, paused: bool) -> None:
    from runyard.engine.dispatch import set_paused

    if not set_paused(function, paused):
        raise RunyardError(f"there is no function {function}; `runyard functions` lists them")


commands = [replay, cancel, dismiss, run_now, bulks, dead_letters, pause, resume]
