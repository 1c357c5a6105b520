"""The command `runyard`. Every error is one line on standard error and exit code 1; wrong usage, and input that cannot be read, is exit code 2."""

import importlib
import json
import logging
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from runyard.cli.errors import reported
from runyard.cli.input import json_of_file, json_of_text
from runyard.cli.invocations import commands
from runyard.cli.keys import keys
from runyard.cli.terminal import echo, echo_json
from runyard.engine.backoff import Backoff
from runyard.errors import InvalidInput, RunyardError
from runyard.settings import settings
from runyard.store.private_folders import keep_private
from runyard.text.redaction import redact

_WATCHED = (
    "pipelines",
    "sensors",
    "assets",
    "schedules",
    "resources",
    "templates",
    "runyard",
    "definitions.py",
)

# The longest wait before the files are watched again, should that or a reload have failed.
_MOST_RELOAD_WAIT = 10.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="runyard")
def main() -> None:
    """Event-driven background jobs on Dagster."""
    keep_private()
    home = str(settings().home)
    if home not in sys.path:
        sys.path.insert(0, home)


@main.command()
@reported
def up() -> int:
    """Run the whole stack until Ctrl-C: database, code server, daemon, worker, web."""
    from runyard.processes.stack import Stack
    from runyard.store.embedded import why_elsewhere

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack = Stack()
    stopped = threading.Event()
    code = 0
    try:
        echo("Starting: database, migrations, code server, daemon, worker, web ...")
        if place := why_elsewhere(settings()):
            echo(f"{place[0].upper()}{place[1:]}.")
        with stack:
            address = f"http://localhost:{settings().port}"
            echo(
                f"Ready. Dagster: {address}/   Events: {address}/dev   Send: {address}/e/<any key>   (Ctrl-C stops everything)"
            )
            threading.Thread(target=_reload_on_change, args=(stack, stopped), daemon=True).start()
            code = stack.wait()
    except KeyboardInterrupt:
        pass
    finally:
        stopped.set()
    echo("Stopped.")
    return code


def _reload_on_change(stack: Any, stopped: threading.Event) -> None:
    from watchfiles import PythonFilter, watch

    class CodeFilter(PythonFilter):
        """Python files, templates and SQL."""

        def __init__(self) -> None:
            super().__init__(extra_extensions=(".sql", ".html", ".txt", ".j2"))

    folders = [settings().home / name for name in _WATCHED if (settings().home / name).exists()]
    backoff = Backoff(logging.getLogger("runyard"), "cannot load changed code", _MOST_RELOAD_WAIT)
    while not stopped.is_set():
        try:
            for changes in watch(
                *folders, watch_filter=CodeFilter(), debounce=400, stop_event=stopped
            ):
                names = sorted({Path(path).name for _, path in changes})
                echo(f"Changed: {', '.join(names[:5])}. Loading the code again ...")
                stack.reload()
                backoff.succeeded()
        except Exception as error:
            stopped.wait(backoff.failed(error))


@main.command()
@reported
def report() -> None:
    """Print the last seven days: events, functions, mail, AI, media, syncs."""
    echo(importlib.import_module(settings().report).week(), lines=True)


@main.command()
@reported
def down() -> None:
    """Stop a stack of this project that runs in another terminal."""
    from runyard.processes.stack import Stack

    stack = Stack()
    echo("Stopping ..." if stack.is_running() else "No stack of this project runs.")
    stack.stop()


@main.command()
@click.argument("name")
@click.option("--data", help="The event's data, a JSON object.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="A file of JSON with the event's data, or with several in an array.",
)
@click.option(
    "--id", "event_id", help="Idempotency key: a second event with it within 24 h starts nothing."
)
@click.option("--ts", type=int, help="When it is to happen, milliseconds since the epoch.")
@reported
def send(
    name: str, data: str | None, file: Path | None, event_id: str | None, ts: int | None
) -> None:
    """Send an event; print its id."""
    from runyard.client import send as send_events
    from runyard.events import Event

    if data is not None and file is not None:
        raise InvalidInput("give --data or --file, not both")
    parsed = json_of_file(file) if file is not None else _json_of_option(data or "{}")
    several = parsed if isinstance(parsed, list) else [parsed]
    if not several:
        raise InvalidInput("the array is empty: there is no event to send")
    events = [
        Event(name, item, id=event_id if len(several) == 1 else None, ts=ts) for item in several
    ]
    for sent in send_events(events, source="cli"):
        echo(sent)


def _json_of_option(data: str) -> Any:
    try:
        return json_of_text(data, "--data")
    except InvalidInput as error:
        raise InvalidInput(
            f'{error}; in a shell put it into single quotes: --data \'{{"to": ["ada@example.com"]}}\''
        ) from None


@main.command()
@click.option("--name", help="Only events of this name.")
@click.option("--id", "event_id", help="Only the event with this id, with its steps.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with steps.")
@reported
def events(name: str | None, event_id: str | None, limit: int, as_json: bool) -> int | None:
    """List the latest events and what became of them."""
    from runyard.engine.failures import described
    from runyard.store import database
    from runyard.store.queries import fetch_all

    with database.connection() as connection:
        rows = fetch_all(connection, "recent_events", limit=limit, name=name, id=event_id)
    if event_id and not rows:
        raise RunyardError(f"there is no event with the id {event_id}")
    for row in rows:
        if as_json:
            echo_json(row)
            continue
        outcome = "; ".join(
            f"{found['function']} {found['status']} (attempt {found['attempt']}){': ' + redact(described(found['error']))[:120] if found['error'] else ''}"
            for found in row["invocations"]
        )
        echo(
            f"{row['received_at']:%Y-%m-%d %H:%M:%S}  {row['id']}  {row['name']}  {outcome or 'unmatched: no function waits for this name'}"
        )
        if event_id:
            for invocation in row["invocations"]:
                for wait in invocation["waits"]:
                    echo(
                        f"    {wait['step']}: waits for {wait['event'] or 'its time'} until {wait['until']}"
                    )
                for step in invocation["steps"]:
                    echo(
                        f"    {step['step']}: {redact(described(step['error']) if step['error'] else json.dumps(step['output']))[:200]}"
                    )
    return None


@main.command()
@reported
def functions() -> None:
    """List the functions, what starts them, and how many invocations wait or have failed."""
    from runyard.store import database
    from runyard.store.queries import fetch_all

    with database.connection() as connection:
        rows = fetch_all(connection, "functions")
    if not rows:
        echo("No function is registered yet; they are when the code loads (`runyard up`).")
    for row in rows:
        state = "  PAUSED" if row["paused_at"] else ""
        state += "" if row["active"] else "  (no longer in the code)"
        started_by = ", ".join(row["triggers"]) or "its schedule"
        echo(
            f"{row['name']}  on {started_by}  batch {row['max_batch']}, {row['attempts']} attempts, {row['queued']} queued, {row['failed']} failed{state}"
        )


@main.command()
@reported
def migrate() -> None:
    """Bring the tables of the event table, of the project and of Dagster up to date.

    The embedded database is started for it where none is set, and stays up until `runyard down`.
    """
    from runyard.processes.migrate import migrate as bring_up_to_date
    from runyard.processes.stack import start_database
    from runyard.store.database import is_embedded

    start_database(settings())
    if is_embedded(settings()):
        place = settings().postgres_dir
        echo(f"database: the embedded one in {place}; it stays up until `runyard down`")
    for line in bring_up_to_date():
        echo(line)


@main.command()
@click.option(
    "--settings", "show_settings", is_flag=True, help="Print every setting too, secrets as stars."
)
@reported
def doctor(show_settings: bool) -> int:
    """Check database, migrations, broker, workers, daemon and keys, and the providers of the project; exit code 1 when one fails."""
    from runyard.processes.checks import all_checks, described

    found = all_checks()
    for check in found:
        echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<14}  {check.says}")
    if show_settings:
        for name, value in described(settings()):
            echo(f"      {name:<14}  {value}")
    return 0 if all(check.ok for check in found) else 1


@main.command()
@reported
def env() -> None:
    """Print the variables that Dagster's own commands need here: eval "$(runyard env)"."""
    from runyard.processes.stack import environment
    from runyard.store.database import database_url

    for name, value in environment(database_url()).items():
        click.echo(f"export {name}={shlex.quote(value)}")  # for a shell to read: as it is


@main.command()
@reported
def worker() -> int:
    """Run a warm worker: RUNYARD_CONCURRENCY processes with the code loaded."""
    _as_dagster_home()
    from runyard.processes.workers import work

    return work()


@main.command()
@click.option(
    "--workspace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Dagster workspace file; that of the running stack by default.",
)
@reported
def daemon(workspace: Path | None) -> int:
    """Run the Dagster daemon, with a sensor loop that wakes at once."""
    _as_dagster_home()
    from runyard.processes.daemon import serve_daemon

    return serve_daemon(_workspace(workspace))


@main.command()
@click.option(
    "--api-only",
    is_flag=True,
    help="Only the door for events, without the Dagster UI: for the side that faces the internet.",
)
@click.option(
    "--workspace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Dagster workspace file; that of the running stack by default.",
)
@reported
def web(api_only: bool, workspace: Path | None) -> int:
    """Serve events over HTTP, the dev page and the Dagster UI on one port."""
    _as_dagster_home()
    from runyard.gateway.app import serve_web

    return serve_web(Path() if api_only else _workspace(workspace), api_only=api_only)


@main.command(hidden=True)
@reported
def postgres() -> int:
    """Keep the embedded PostgreSQL up (a part of the stack)."""
    from runyard.store.embedded import serve_embedded

    return serve_embedded(settings().postgres_dir, settings().data / "postgres")


@main.command("delete-database", hidden=True)
@reported
def delete_database() -> None:
    """Delete what this project has outside of its data folder, the embedded database above all (`make clean`)."""
    from runyard.processes.stack import delete_sockets
    from runyard.store.embedded import delete_embedded

    delete_embedded(settings().postgres_dir)
    delete_sockets()


@main.command("code-server")
@reported
def code_server() -> int:
    """Serve the code location to daemon and web on the stack's socket; publishes the functions first."""
    _as_dagster_home()
    from runyard.processes.code_server import serve_code
    from runyard.processes.stack import socket_path

    return serve_code(socket_path("code"))


@main.command("prefix-output", hidden=True)
@reported
def prefix_output() -> int:
    """Prefix the output of the stack's processes (a part of the stack)."""
    from runyard.processes.log_prefix import prefix_output as copy

    return copy()


def _as_dagster_home() -> None:
    """Give Dagster the variables that `dagster.yaml` reads, and work in the project's folder."""
    from runyard.processes.stack import environment
    from runyard.store.database import database_url

    variables = environment(database_url())
    os.environ["DATABASE_URL"] = variables[
        "DATABASE_URL"
    ]  # what was given, with what every connection needs
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    os.chdir(settings().home)


def _workspace(given: Path | None) -> Path:
    """The workspace file: the one given, that of the running stack (once its code server answers), or the project's."""
    from runyard.processes.stack import stack_workspace, wait_for_code_server

    if given is not None:
        return given
    if stack_workspace().exists():
        wait_for_code_server()
        return stack_workspace()
    return settings().home / "workspace.yaml"


for _command in (*commands, keys):
    main.add_command(_command)
