"""The command `runyard`.

Every error is one line on standard error. The exit code is 1, or 2 for wrong usage and for input
that cannot be read.
"""

import fcntl
import json
import os
import shlex
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from runyard.cli.alerts import alerts
from runyard.cli.alive import alive
from runyard.cli.apps import apps
from runyard.cli.catalog import catalog
from runyard.cli.check import check
from runyard.cli.errors import Commands, reported
from runyard.cli.init import add, init
from runyard.cli.input import json_of_file, json_of_text
from runyard.cli.invocations import commands
from runyard.cli.keys import keys
from runyard.cli.migrate import migrate
from runyard.cli.psql import pg_dump, psql
from runyard.cli.terminal import echo, echo_json, log_as_json_if_set
from runyard.cli.types import types
from runyard.errors import InvalidInput, InvalidOption, RunyardError
from runyard.settings import settings
from runyard.store.private_folders import keep_private
from runyard.text.redaction import redact

if TYPE_CHECKING:
    from runyard.processes.stack import Stack


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="runyard")
def main() -> None:
    """Event-driven background jobs on Dagster."""
    keep_private()
    try:
        home = str(settings().home)
    except ValidationError as error:
        from runyard.cli.configuration import invalid

        echo(f"runyard: {invalid(error)}", err=True)
        sys.exit(1)
    except InvalidOption as error:
        echo(f"runyard: {error}", err=True)
        sys.exit(1)
    if home not in sys.path:
        sys.path.insert(0, home)


@main.command()
@click.option(
    "--app",
    "apps_at",
    multiple=True,
    metavar="URL",
    help="The URL at which an application with an Inngest SDK serves its functions (repeatable).",
)
@reported
def up(apps_at: tuple[str, ...]) -> int:
    """Run the whole stack until Ctrl-C.

    The stack is the database (embedded unless DATABASE_URL is set), code server, daemon, worker and
    web process. It reloads the project's code when a file of it changes.
    """
    from runyard.processes.project import check_project
    from runyard.processes.stack import Stack
    from runyard.store.embedded import why_elsewhere

    log_as_json_if_set()
    check_project()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _append_to_files()
    _warn_of_unknown_variables()
    if apps_at:
        os.environ["RUNYARD_APPS"] = ",".join([*settings().apps, *apps_at])
        settings.cache_clear()
    code = 0
    with suppress(KeyboardInterrupt):
        echo("Starting: database, migrations, code server, daemon, worker, web ...")
        if place := why_elsewhere(settings()):
            echo(f"{place[0].upper()}{place[1:]}.")
        code = _run_stack(Stack())
    echo("Stopped.")
    return code


def _run_stack(stack: "Stack") -> int:
    """Run a stack until it ends, and reload its code meanwhile; return its exit code."""
    from runyard.cli.reloading import Reloader

    reloader = Reloader(stack)
    try:
        with stack:
            address = f"http://localhost:{settings().port}"
            echo(
                f"Ready. Dagster: {address}/   Events: {address}/dev   "
                f"Send: {address}/e/<any key>   (Ctrl-C stops everything)"
            )
            with reloader:
                return _wait(stack)
    finally:
        reloader.join()


def _wait(stack: "Stack") -> int:
    """Wait until a stack ends; return its exit code."""
    try:
        return stack.wait()
    except KeyboardInterrupt:
        seconds = f"{stack.drain_timeout:g} s"
        echo(f"Stopping. Runs have {seconds} to finish; Ctrl-C again hands them back at once.")
        raise


def _warn_of_unknown_variables() -> None:
    """Name the variables that look like settings, but are none."""
    from runyard.cli.configuration import misspelt

    with suppress(Exception):  # the project's module of settings does not load: others say so
        for line in misspelt():
            echo(f"runyard: {line}", err=True)


def _append_to_files() -> None:
    """Let a file that takes our output be appended to: supervisord opens it a second time, and two
    writers would overwrite each other."""
    for stream in (1, 2):
        with suppress(OSError):  # it is closed
            if stat.S_ISREG(os.fstat(stream).st_mode):
                flags = fcntl.fcntl(stream, fcntl.F_GETFL)
                fcntl.fcntl(stream, fcntl.F_SETFL, flags | os.O_APPEND)


@main.command()
@reported
def down() -> None:
    """Stop this project's stack and its database."""
    from runyard.processes.stack import Stack

    stack = Stack()
    echo("Stopping ..." if stack.is_running() else "No stack of this project is running.")
    stack.stop()


@main.command()
@click.argument("name")
@click.option("--data", help="The event's data, as a JSON object.")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="A JSON file with the event's data, or an array with the data of several events.",
)
@click.option(
    "--id",
    "event_id",
    help="Idempotency key: another event with it within 24 hours starts nothing.",
)
@click.option(
    "--ts", type=int, help="When to deliver the event, in milliseconds since the Unix epoch."
)
@reported
def send(
    name: str, data: str | None, file: Path | None, event_id: str | None, ts: int | None
) -> None:
    """Send the event NAME and print its id."""
    from runyard.client import send as send_events
    from runyard.events import Event

    if data is not None and file is not None:
        raise InvalidInput("use either --data or --file, not both")
    parsed = json_of_file(file) if file is not None else _json_of_option(data or "{}")
    items = parsed if isinstance(parsed, list) else [parsed]
    if not items:
        raise InvalidInput("the array is empty: there is no event to send")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            which = f"element {number} of the array" if isinstance(parsed, list) else "the data"
            raise InvalidInput(f"{which} is not a JSON object: {json.dumps(item)[:60]}")
    only_id = event_id if len(items) == 1 else None
    events = [Event(name, item, id=only_id, ts=ts) for item in items]
    for sent_id in send_events(events, source="cli"):
        echo(sent_id)


def _json_of_option(data: str) -> Any:
    try:
        return json_of_text(data, "--data")
    except InvalidInput as error:
        example = """--data '{"to": ["ada@example.com"]}'"""
        raise InvalidInput(f"{error}; in a shell, use single quotes: {example}") from None


@main.command()
@click.option("--name", help="Only events with this name.")
@click.option("--id", "event_id", help="Only the event with this id, with its steps.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, steps included."
)
@reported
def events(name: str | None, event_id: str | None, limit: int, as_json: bool) -> None:
    """List the latest events with their outcomes."""
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
        _show_event(row)
        if event_id:
            for invocation in row["invocations"]:
                _show_steps(invocation)


def _show_event(event: dict[str, Any]) -> None:
    """Print an event as one line, with the outcome of its invocations."""
    from runyard.engine.failures import described

    outcomes = []
    for invocation in event["invocations"]:
        error = f": {redact(described(invocation['error']))[:120]}" if invocation["error"] else ""
        # An attempt that has not come to an end, as in a sleep, is not counted yet.
        attempt = f" (attempt {invocation['attempt']})" if invocation["attempt"] else ""
        outcomes.append(f"{invocation['function']} {invocation['status']}{attempt}{error}")
    outcome = (
        "; ".join(outcomes) or "unmatched: it starts no function; one that waits for it goes on"
    )
    echo(f"{event['received_at']:%Y-%m-%d %H:%M:%S}  {event['id']}  {event['name']}  {outcome}")


def _show_steps(invocation: dict[str, Any]) -> None:
    """Print the waits and the steps of an invocation, a line each."""
    from runyard.engine.failures import described

    for wait in invocation["waits"]:
        name = wait["event"] or wait["signal"]
        awaited = f" for {name}" if name else ""
        echo(f"    {wait['step']}: waits{awaited} until {wait['until']}")
    for step in invocation["steps"]:
        result = described(step["error"]) if step["error"] else json.dumps(step["output"])
        echo(f"    {step['step']}: {redact(result)[:200]}")


@main.command()
@reported
def functions() -> None:
    """List functions, their triggers and queues."""
    from runyard.store import database
    from runyard.store.queries import fetch_all

    with database.connection() as connection:
        rows = fetch_all(connection, "functions")
    if not rows:
        echo("No functions yet: they are registered when the code loads (`runyard up`).")
    for row in rows:
        state = "  PAUSED" if row["paused_at"] else ""
        state += "" if row["active"] else "  (no longer in the code)"
        triggers = ", ".join(row["triggers"]) or "its schedule"
        echo(
            f"{row['name']}  on {triggers}  batch {row['max_batch']}, "
            f"{row['attempts']} attempts, {row['queued']} queued, {row['failed']} failed{state}"
        )


@main.command()
@reported
def report() -> None:
    """Print a report of the last seven days."""
    module = settings().project_module("report")
    if module is None:
        missing = f" (there is no module {settings().report})" if settings().report else ""
        raise RunyardError(
            f"this project has no report{missing}: set RUNYARD_REPORT to a module with a function"
            " `week` that returns the text"
        )
    echo(module.week(), lines=True)


@main.command()
@click.option(
    "--settings", "show_settings", is_flag=True, help="Also print all settings, secrets hidden."
)
@reported
def doctor(show_settings: bool) -> int:
    """Check that everything works.

    Checks database, migrations, broker, workers, daemon, sensors, API keys, the project's own
    providers, the collector of traces and the receivers of alerts. Exits with 1 when a check fails.
    """
    from runyard.cli.configuration import misspelt, values
    from runyard.processes.checks import all_checks
    from runyard.processes.outside_checks import outside_checks
    from runyard.processes.project import check_project

    check_project()
    results = [*all_checks(load_code=True), *outside_checks()]
    for result in results:
        echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:<14}  {result.says}")
    for line in misspelt():
        echo(f"warn  {'settings':<14}  {line}")
    if show_settings:
        for variable, value in values():
            echo(f"      {variable}={value}")
    return 0 if all(result.ok for result in results) else 1


@main.command()
@reported
def configuration() -> None:
    """Print the reference of all settings (Markdown)."""
    from runyard.cli.configuration import reference

    click.echo(reference(), nl=False)


@main.command()
@reported
def env() -> None:
    """Print the variables Dagster's commands need.

    Use it as: eval "$(runyard env)"
    """
    from runyard.processes.stack import environment
    from runyard.store.database import database_url

    for name, value in environment(database_url()).items():
        # Neither redacted nor escaped: a shell reads this.
        click.echo(f"export {name}={shlex.quote(value)}")


@main.command()
@reported
def worker() -> int:
    """Run a warm worker.

    It keeps RUNYARD_CONCURRENCY processes with the project's code loaded, and takes runs from the
    broker.
    """
    _as_dagster_home(needs_code=True)
    from runyard.processes.workers import work

    return work()


@main.command()
@click.option(
    "--of-worker",
    is_flag=True,
    help="Stop when the process that started this one is gone.",
)
@reported
def caller(of_worker: bool) -> int:
    """Call the functions of applications.

    `runyard worker` starts one when there are such functions. It executes up to
    RUNYARD_REMOTE_CONCURRENCY runs at a time, and takes them from the broker.
    """
    _as_dagster_home()
    from runyard.processes.caller import serve_calls

    return serve_calls(of_worker=of_worker)


_workspace_option = click.option(
    "--workspace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A Dagster workspace file; by default that of the running stack, or workspace.yaml.",
)


@main.command()
@_workspace_option
@reported
def daemon(workspace: Path | None) -> int:
    """Run the Dagster daemon.

    Its sensors wake up as soon as an event arrives.
    """
    _as_dagster_home()
    from runyard.processes.daemon import serve_daemon

    return serve_daemon(_workspace(workspace))


@main.command()
@click.option(
    "--api-only",
    is_flag=True,
    help="Serve the HTTP API and the dev page only, not the Dagster UI, and require API keys: "
    "for the side that faces the internet.",
)
@_workspace_option
@reported
def web(api_only: bool, workspace: Path | None) -> int:
    """Serve HTTP API, dev page and Dagster UI."""
    _as_dagster_home(needs_project=not api_only)
    from runyard.gateway.app import serve_web

    return serve_web(Path() if api_only else _workspace(workspace), api_only=api_only)


@main.command("code-server")
@click.option(
    "--apps",
    is_flag=True,
    help="Serve the functions of applications instead, as a code location of their own.",
)
@click.option(
    "--port",
    type=int,
    help="Listen on this TCP port of 0.0.0.0 instead of a Unix socket, for daemon and web on "
    "another host. Whoever reaches it can run code: keep it within a private network.",
)
@click.option("--of-daemon", is_flag=True, hidden=True, help="End when the daemon is gone.")
@reported
def code_server(apps: bool, port: int | None, of_daemon: bool) -> int:
    """Serve the project's code to daemon and web.

    It registers the functions first, then serves the code location on the stack's Unix socket.
    """
    _as_dagster_home(needs_code=True)
    from runyard.processes.apps_server import on_socket, serve_apps
    from runyard.processes.child_process import watch_parent
    from runyard.processes.code_server import serve_code
    from runyard.processes.stack_files import socket_path

    if of_daemon:
        watch_parent(lambda: os._exit(0))
    # Dagster's server does at SIGTERM what it does at SIGINT, and a shell that starts a process in
    # the background lets it ignore that one.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    place = (
        on_socket(socket_path("apps" if apps else "code"))
        if port is None
        else ["--host", "0.0.0.0", "--port", str(port)]  # noqa: S104 (asked for)
    )
    return serve_apps(place) if apps else serve_code(place, beside=port is not None)


@main.command()
@reported
def postgres() -> int:
    """Run the embedded PostgreSQL alone, until Ctrl-C."""
    from runyard.store.embedded import serve_embedded

    return serve_embedded(settings().postgres_dir, settings().data / "postgres")


@main.command("delete-database", hidden=True)
@reported
def delete_database() -> None:
    """Delete the embedded database and all else outside the data folder (for `make clean`)."""
    from runyard.processes.stack_files import delete_sockets
    from runyard.store.embedded import delete_embedded

    delete_embedded(settings().postgres_dir)
    delete_sockets()


@main.command("prefix-output", hidden=True)
@reported
def prefix_output() -> int:
    """Prefix the output of the stack's processes with their names (part of the stack)."""
    from runyard.processes.log_prefix import prefix_output as copy

    return copy()


def _as_dagster_home(*, needs_project: bool = True, needs_code: bool = False) -> None:
    """Set the variables that `dagster.yaml` reads, and change to the project's folder."""
    from runyard.processes.project import check_project
    from runyard.processes.stack import environment
    from runyard.store.database import database_url

    log_as_json_if_set()
    if needs_project:
        # Dagster's own variable wins here, as it does in Dagster.
        dagster_home = Path(os.environ.get("DAGSTER_HOME") or settings().home)
        check_project(needs_code=needs_code, dagster_home=dagster_home)
    if "SUPERVISOR_ENABLED" not in os.environ:  # `runyard up` has said it for all its processes
        _warn_of_unknown_variables()
    variables = environment(database_url())
    # Replaces a DATABASE_URL that is set: it now has the options that every connection needs.
    os.environ["DATABASE_URL"] = variables["DATABASE_URL"]
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    os.chdir(settings().home)
    from runyard.processes.schema_check import check_at_start

    check_at_start()


def _workspace(explicit: Path | None) -> Path:
    """The workspace file: an explicit one, the running stack's, or the project's.

    The running stack's is used once its code server accepts connections.
    """
    from runyard.processes.stack_files import stack_workspace, wait_for_code_server

    if explicit is not None:
        return explicit
    if stack_workspace().exists():
        wait_for_code_server()
        return stack_workspace()
    workspace = settings().home / "workspace.yaml"
    if not workspace.is_file():
        raise RunyardError(
            f"there is no {workspace}: write one with `runyard init --into .`, or give another with"
            " --workspace"
        )
    return workspace


for _command in (
    *commands,
    add,
    alerts,
    alive,
    apps,
    catalog,
    check,
    init,
    keys,
    migrate,
    pg_dump,
    psql,
    types,
):
    main.add_command(_command)
