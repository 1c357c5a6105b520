"""Code as the daemon has loaded it: by a code server of its own, which ends with the context."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import DagsterInstance
from dagster._core.workspace.load_target import ModuleTarget

from runyard.dagster_adapter.internals import WorkspaceProcessContext
from tests.conftest import ROOT


@contextmanager
def loaded_code(module: str) -> Iterator[WorkspaceProcessContext]:
    """Load a module; its code server has ended when the context has."""
    target = ModuleTarget(module, None, str(ROOT), None)
    with DagsterInstance.get() as instance:
        context = WorkspaceProcessContext(instance, target)
        with context:
            yield context
        context._grpc_server_registry.wait_for_processes()
