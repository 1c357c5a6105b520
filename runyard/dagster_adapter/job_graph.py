"""Checks that a job hands its batch from `receive` through all of its ops to `settle`.

A run of any other job would end, and even succeed, while its invocations are left behind: until
their lease expires they hang, and then their worker counts as lost. Outputs with an IO manager of
their own (`Out(io_manager_key=...)`), and mere order (`In(Nothing)`), carry no batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dagster import GraphDefinition, JobDefinition

from runyard.dagster_adapter.ops import BATCHES, DRAWN, receive, settle
from runyard.errors import InvalidOption

# Dagster's name for the IO manager of outputs that name none, and that of functions that are drawn:
# both hand on nothing but batches.
_BATCH_IO_MANAGERS = ("io_manager", BATCHES)
_FIX = "write it as settle(your_op(receive()))"
_Edges = dict[str, set[str]]


@dataclass
class _Batches:
    """The ops of a job by their names (`graph.op` in a nested graph), and the ways of its batch."""

    ops: dict[str, str] = field(default_factory=dict[str, str])
    after: _Edges = field(default_factory=_Edges)
    before: _Edges = field(default_factory=_Edges)

    def named(self, definition: str) -> list[str]:
        """The ops with this definition, whatever they are called in the job."""
        return sorted(name for name, of in self.ops.items() if of == definition)

    def add(self, source: str, target: str) -> None:
        self.after.setdefault(source, set()).add(target)
        self.before.setdefault(target, set()).add(source)


def check_job(function: str, job: JobDefinition) -> None:
    """Check that a job begins with `receive`, ends with `settle`, and loses nothing in between.

    Raises `InvalidOption` that names the function, the job, the op and how to write it.
    """
    problem = _problem(job)
    if problem is not None:
        raise InvalidOption(f"function {function}: in the job {job.name}, {problem}")


def _problem(job: JobDefinition) -> str | None:
    batches = _Batches()
    _collect(job.graph, "", batches)
    received, settled = batches.named(receive.name), batches.named(settle.name)
    for name, found in ((receive.name, received), (settle.name, settled)):
        if not found:
            return f"there is no {name}; {_FIX}"
    if len(received) > 1:
        return (
            f"receive stands {len(received)} times ({', '.join(received)}): a run has one batch;"
            " write batch = receive() and hand batch to each of the ops"
        )
    if len(settled) > 1:
        return (
            f"settle stands {len(settled)} times ({', '.join(settled)}): a batch ends once; write"
            " settle(join([one_op(batch), other_op(batch)]))"
        )
    return _misplaced(batches, received[0], settled[0])


def _misplaced(batches: _Batches, received: str, settled: str) -> str | None:
    """What is wrong about an op that is not on the batch's way from `receive` to `settle`."""
    late = batches.after.get(settled)
    if late:
        op = min(late)
        return (
            f"{op} comes after settle, when the batch has ended; write settle({_call(op)}(...)),"
            " or, if it only has to run afterwards, give it an input of In(Nothing)"
        )
    fed = _reachable(received, batches.after)
    settling = _reachable(settled, batches.before)
    for op in sorted(settling - fed):
        if op != settled:
            return (
                f"{op} hands on a batch that it does not get from receive; write"
                f" {_call(op)}(receive()), or, if it returns something else than a batch, give its"
                " output an io_manager_key of its own"
            )
    if settled not in fed:
        return f"settle does not get the batch of receive; {_FIX}"
    for op in sorted(fed - settling):
        return (
            f"{op} takes the batch, but nothing leads from it to settle; write"
            f" settle({_call(op)}(...)), or settle(join([{_call(op)}(batch), other_op(batch)]))"
        )
    return None


def _call(op: str) -> str:
    """The op as code calls it, without the graph that it is in."""
    return op.rpartition(".")[2]


def _reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found, ahead = {start}, [start]
    while ahead:
        new = edges.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def _collect(graph: GraphDefinition, prefix: str, batches: _Batches) -> None:
    """Add the ops of a graph and of the graphs in it, and the ways of batches between them."""
    for node in graph.nodes:
        if isinstance(node.definition, GraphDefinition):
            _collect(node.definition, f"{prefix}{node.name}.", batches)
        else:
            batches.ops[prefix + node.name] = node.definition.name.removeprefix(DRAWN)
    for invocation, inputs in graph.dependencies.items():
        target = invocation.alias or invocation.name
        for name, dependency in inputs.items():
            takers = list(_takers(graph, prefix, target, name))
            for source in dependency.get_node_dependencies():
                for giver in _givers(graph, prefix, source.node, source.output):
                    for taker in takers:
                        batches.add(giver, taker)


def _takers(graph: GraphDefinition, prefix: str, node: str, name: str) -> Iterator[str]:
    """The ops that take a batch by an input of a node: itself, or ops of the graph that it is."""
    definition = graph.node_named(node).definition
    if isinstance(definition, GraphDefinition):
        for mapping in definition.input_mappings:
            if mapping.graph_input_name == name:
                inner = mapping.maps_to
                yield from _takers(
                    definition, f"{prefix}{node}.", inner.node_name, inner.input_name
                )
    elif not definition.input_def_named(name).dagster_type.is_nothing:
        yield prefix + node


def _givers(graph: GraphDefinition, prefix: str, node: str, name: str) -> Iterator[str]:
    """The op that gives a batch by an output of a node; none when the output is something else."""
    definition = graph.node_named(node).definition
    if isinstance(definition, GraphDefinition):
        for mapping in definition.output_mappings:
            if mapping.graph_output_name == name:
                inner = mapping.maps_from
                yield from _givers(
                    definition, f"{prefix}{node}.", inner.node_name, inner.output_name
                )
    elif definition.output_def_named(name).io_manager_key in _BATCH_IO_MANAGERS:
        yield prefix + node
