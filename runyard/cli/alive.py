"""`runyard alive`: a probe for supervisors of processes that serve no HTTP."""

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo


@click.command()
@click.argument("role", type=click.Choice(("daemon", "web", "worker")))
@reported
def alive(role: str) -> None:
    """Check that ROLE is alive on this host, for the probes of a container.

    Worker and daemon cannot work while the database does not answer. Then the probe of them passes:
    a restart would not help. Exits with 1 when ROLE is not alive.
    """
    from runyard.processes.probes import PROBES

    echo(PROBES[role]())
