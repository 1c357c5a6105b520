"""The code location of the functions that applications serve, made from the database.

Each function is a job of its own name, with its sensor and its schedules. What is registered is
read when Dagster asks for all of it; a code server does so once, and starts anew when that has
changed (see `processes.apps_server`). A single job is made without reading anything, so a process
that executes runs needs no restart.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property

from dagster import (
    JobDefinition,
    RepositoryData,
    RepositoryDefinition,
    ResourceDefinition,
    ScheduleDefinition,
    SensorDefinition,
)

from runyard.apps import catalog
from runyard.apps.catalog import RemoteFunction
from runyard.apps.registration import shown_url
from runyard.dagster_adapter.remote_jobs import remote_job
from runyard.dagster_adapter.schedules import remote_schedules
from runyard.dagster_adapter.sensors import remote_sensor
from runyard.dagster_adapter.tags import APP, SLUG
from runyard.text.markdown import escaped


class AppsRepository(RepositoryData):
    """The jobs, sensors and schedules of all functions that applications have registered."""

    @cached_property
    def _present(self) -> Sequence[RemoteFunction]:
        return catalog.remote_functions()

    @cached_property
    def _functions(self) -> Sequence[RemoteFunction]:
        """Those that are registered, and those that are no longer, but have runs to end."""
        return [*self._present, *catalog.ending_functions()]

    @cached_property
    def _jobs(self) -> Mapping[str, JobDefinition]:
        return {
            remote.function.name: remote_job(
                remote.function.name, description_of(remote), {APP: remote.app, SLUG: remote.slug}
            )
            for remote in self._functions
        }

    @cached_property
    def _sensors(self) -> Sequence[SensorDefinition]:
        return [
            remote_sensor(
                remote.function,
                self._jobs[remote.function.name],
                remote.app,
                f"Starts {remote.slug} of the application {remote.app}.",
            )
            for remote in self._functions
        ]

    @cached_property
    def _schedules(self) -> Sequence[ScheduleDefinition]:
        return [
            schedule
            for remote in self._present
            for schedule in remote_schedules(
                remote.function,
                remote.schedules,
                self._jobs[remote.function.name],
            )
        ]

    def get_all_jobs(self) -> Sequence[JobDefinition]:
        """The jobs of all functions."""
        return list(self._jobs.values())

    def get_job_names(self) -> Sequence[str]:
        """The names of all functions."""
        return list(self._jobs)

    def get_job(self, job_name: str) -> JobDefinition:
        """The job of a function; of one that is not registered (any more) without a description."""
        loaded = self.__dict__.get("_jobs", {})
        job: JobDefinition = loaded.get(job_name) or remote_job(job_name)
        return job

    def get_all_sensors(self) -> Sequence[SensorDefinition]:
        """A sensor for each function."""
        return self._sensors

    def get_all_schedules(self) -> Sequence[ScheduleDefinition]:
        """The schedules of the functions with cron triggers."""
        return self._schedules

    def get_top_level_resources(self) -> Mapping[str, ResourceDefinition]:
        """None."""
        return {}

    def get_env_vars_by_top_level_resource(self) -> Mapping[str, AbstractSet[str]]:
        """None."""
        return {}


def description_of(remote: RemoteFunction) -> str:
    """What people read about a function: its title, and where it is called."""
    return (
        f"{escaped(remote.title)}: {escaped(remote.slug)} of the application"
        f" {escaped(remote.app)}, called at {escaped(shown_url(remote.url))}."
    )


apps = RepositoryDefinition(
    "__repository__",
    repository_data=AppsRepository(),
    description="The functions that applications serve.",
)
