"""The Dagster daemon with a sensor loop that wakes at once, and pooled connections."""

from pathlib import Path

from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.interrupts import capture_interrupts, setup_interrupt_handlers

from runyard.dagster_internals import pooled_instance, run_daemon


def serve_daemon(workspace: Path) -> int:
    """Run sensors, schedules and the other daemons on the code locations of a workspace file, until interrupted."""
    setup_interrupt_handlers()
    try:
        with capture_interrupts(), pooled_instance() as instance:
            run_daemon(instance, WorkspaceFileTarget(paths=[str(workspace)]))
    except KeyboardInterrupt:
        return 0
    return 0
