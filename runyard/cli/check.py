"""`runyard check`: whether the project's code can run, in plain words."""

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo


@click.command()
@reported
def check() -> int:
    """Check the project's code without running it.

    Loads the code and says what is wrong, with file and line: errors on import, options that
    contradict each other, functions of the same name, missing resources, event types. It needs no
    database. Exits with 1 when something is wrong.
    """
    from runyard.processes.project import check_project

    check_project()
    from runyard.processes.project_check import examine_code

    result = examine_code()
    for problem in result.problems:
        echo(f"runyard: {problem}", err=True)
    for note in result.notes:
        echo(f"note: {note}", err=True)
    if result.problems:
        return 1
    echo(
        f"The code loads: {_counted(len(result.functions), 'function')}"
        f" ({', '.join(result.functions)}), {_counted(len(result.events), 'event type')}."
    )
    return 0


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
