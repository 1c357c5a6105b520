"""`definitions`: the Dagster definitions of functions, with all that they need."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

from dagster import Definitions

from runyard.authoring.function import EventFunction
from runyard.dagster_adapter import builtin
from runyard.dagster_adapter.io_manager import BatchIOManager
from runyard.dagster_adapter.ops import BATCHES
from runyard.dagster_adapter.sensors import FunctionSensor
from runyard.errors import InvalidOption

_Function = EventFunction[..., Any] | FunctionSensor
Part = _Function | ModuleType | Definitions
_IO_MANAGER = "io_manager"
# One for all, as Dagster merges equal resources only.
_carrier = BatchIOManager()


def definitions(*parts: Part, **others: Any) -> Definitions:
    """Return the Dagster definitions of functions: jobs, sensors, schedules and Runyard's own.

    Parameters
    ----------
    parts
        Functions; sensors of `on_event`; modules and packages, for all functions in them; and
        `Definitions`, with which these are merged.
    others
        What else `Definitions` takes: `resources`, `assets`, `jobs` and so on.

    Raises
    ------
    InvalidOption
        A part is none of these, a module has no function, or two functions have the same name.
    """
    functions = _distinct(parts)
    own = [part for part in parts if isinstance(part, Definitions)]
    made = {
        "jobs": [job for function in functions for job in _jobs(function)],
        "sensors": [_sensor(function) for function in functions],
        "schedules": [plan for function in functions for plan in _sensor(function).schedules],
    }
    for name, values in made.items():
        others[name] = [*values, *others.get(name, ())]
    resources = {BATCHES: _carrier, **others.get("resources", {})}
    if _needs_io_manager(functions, own, others):
        resources.setdefault(_IO_MANAGER, resources[BATCHES])
    others["resources"] = resources
    merged = [*own, Definitions(**others)]
    return Definitions.merge(*merged, *_built_in(merged))


def _distinct(parts: Sequence[Part]) -> list[_Function]:
    found: dict[str, _Function] = {}
    for function in (function for part in parts for function in _functions_of(part)):
        known = found.setdefault(_sensor(function).name, function)
        if known is not function:
            raise InvalidOption(
                f"there are two functions called {_name(function)}, in {_place(known)} and in"
                f" {_place(function)}: rename one of them"
            )
    return list(found.values())


def _functions_of(part: Part) -> Iterator[_Function]:
    if isinstance(part, EventFunction | FunctionSensor):
        yield part
    elif isinstance(part, ModuleType):
        found = [
            value
            for module in _modules(part)
            for value in vars(module).values()
            if isinstance(value, EventFunction | FunctionSensor)
        ]
        if not found:
            raise InvalidOption(
                f"the module {part.__name__} has no functions: write one with @function(...),"
                " or leave the module out of definitions(...)"
            )
        yield from found
    elif not isinstance(part, Definitions):
        raise InvalidOption(
            f"definitions({part!r}): give functions made with @function(...), modules that have"
            " some, or Definitions"
        )


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    """Yield a module, and those of a package with all of its own."""
    yield module
    for found in walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        if not found.name.endswith(".__main__"):  # to import it would be to run it
            yield import_module(found.name)


def _sensor(function: _Function) -> FunctionSensor:
    return function.sensor if isinstance(function, EventFunction) else function


def _jobs(function: _Function) -> Sequence[Any]:
    """The jobs of a function; those of a sensor are what it targets."""
    return function.jobs


def _name(function: _Function) -> str:
    return function.name.removesuffix("_sensor")


def _place(function: _Function) -> str:
    return getattr(function, "__module__", "a sensor of on_event")


def _needs_io_manager(
    functions: Sequence[_Function], own: Sequence[Definitions], others: dict[str, Any]
) -> bool:
    """Whether jobs of `on_event` are left without an IO manager that nothing else could mean.

    The jobs of `@function` have another. Where there are assets or other jobs, an IO manager for
    all would be theirs too, and it is for the project to say which.
    """
    if not any(isinstance(function, FunctionSensor) for function in functions):
        return False
    if any(_IO_MANAGER in (definitions.resources or {}) for definitions in own):
        return False
    ours = {job.name for job in (*builtin.jobs, *(j for f in functions for j in f.jobs))}
    assets = [*(definitions.assets for definitions in own), others.get("assets")]
    jobs = [*(definitions.jobs for definitions in own), others.get("jobs")]
    return not any(assets) and all(job.name in ours for some in jobs for job in some or ())


def _built_in(own: Sequence[Definitions]) -> list[Definitions]:
    """Runyard's own jobs and sensors, unless one of these definitions has them."""
    sensors = {sensor.name for definitions in own for sensor in definitions.sensors or ()}
    if builtin.sensors[0].name in sensors:
        return []
    return [Definitions(jobs=builtin.jobs, sensors=builtin.sensors)]
