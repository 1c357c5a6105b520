"""A function's job is refused at load unless its batch goes from `receive` through all ops to
`settle`."""

from collections.abc import Callable
from typing import Any

import pytest
from dagster import In, JobDefinition, Nothing, Out, graph, job, op

from runyard import Batch, InvalidOption, join, on_event, receive, settle
from runyard.functions import registry


@op
def work(batch: Batch) -> Batch:
    return batch


@op
def source() -> Batch:
    raise AssertionError("never runs")


@op
def count(counts: Any) -> None: ...


@op(ins={"after": In(Nothing)})
def clean_up() -> None: ...


@op(out=Out(int, io_manager_key="memory"))
def size(batch: Batch) -> int:
    return len(batch)


@op
def work_with(batch: Batch, number: int) -> Batch:
    return batch


@op(out=Out(int, io_manager_key="memory"))
def limit() -> int:
    return 3


@graph
def two_steps(batch: Any) -> Any:
    return work(work(batch))


@graph
def leaky(batch: Any) -> Any:
    work.alias("forgotten")(batch)
    return work(batch)


def declare(compose: Callable[[], None]) -> None:
    """Make a job of a function that composes it, and a function of the job."""
    made = job(compose)
    assert isinstance(made, JobDefinition)
    with registry.use():
        on_event("shop/order.placed", job=made, name="orders")


def empty() -> None:
    work(source())


def unsettled() -> None:
    work(receive())


def unfed() -> None:
    receive()
    settle(work(source()))


def unfed_branch() -> None:
    settle(join([work(receive()), source()]))


def unfed_settle() -> None:
    work(receive())
    settle(source())


def lost_branch() -> None:
    batch = receive()
    work.alias("mail")(batch)
    settle(work.alias("charge")(batch))


def lost_branch_in_a_graph() -> None:
    settle(leaky(receive()))


def late_op() -> None:
    count(settle(work(receive())))


def late_branch() -> None:
    batch = receive()
    work_with(batch, settle(work(batch)))


def twice_received() -> None:
    settle(join([work(receive()), work(receive())]))


def twice_settled() -> None:
    batch = receive()
    settle(work(batch))
    settle(work(batch))


@pytest.mark.parametrize(
    ("compose", "says"),
    [
        (empty, "in the job empty, there is no receive; write it as settle(your_op(receive()))"),
        (unsettled, "there is no settle; write it as settle(your_op(receive()))"),
        (unfed, "source hands on a batch that it does not get from receive; write source(receive"),
        (unfed_branch, "source hands on a batch that it does not get from receive"),
        (unfed_settle, "source hands on a batch that it does not get from receive"),
        (lost_branch, "mail takes the batch, but nothing leads from it to settle; write settle(ma"),
        (lost_branch_in_a_graph, "leaky.forgotten takes the batch, but nothing leads from it to"),
        (late_op, "count comes after settle, when the batch has ended; write settle(count(...))"),
        (late_branch, "work_with comes after settle, when the batch has ended"),
        (twice_received, "receive stands 2 times (receive, receive_2): a run has one batch"),
        (twice_settled, "settle stands 2 times (settle, settle_2): a batch ends once; write"),
    ],
)
def test_a_job_that_would_lose_invocations_is_refused_with_the_op_and_the_fix(
    compose: Callable[[], None], says: str
) -> None:
    with pytest.raises(InvalidOption) as refusal:
        declare(compose)
    assert says in str(refusal.value)


def test_a_refusal_names_the_function_and_the_job() -> None:
    with pytest.raises(InvalidOption) as refusal:
        declare(late_op)
    assert str(refusal.value).startswith("function orders: in the job late_op, ")


def straight() -> None:
    settle(work(receive()))


def nothing_to_do() -> None:
    settle(receive())


def parallel() -> None:
    batch = receive()
    settle(join([work.alias("mail")(batch), two_steps(batch), batch]))


def renamed() -> None:
    settle.alias("end")(work(receive.alias("begin")()))


def with_numbers() -> None:
    batch = receive()
    size(batch)
    settle(work_with(batch, limit()))


def with_order() -> None:
    clean_up(settle(work(receive())))


@pytest.mark.parametrize(
    "compose", [straight, nothing_to_do, parallel, renamed, with_order], ids=lambda f: f.__name__
)
def test_a_job_that_ends_all_that_it_begins_is_accepted(compose: Callable[[], None]) -> None:
    declare(compose)


def test_what_has_an_io_manager_of_its_own_is_no_batch() -> None:
    def numbers() -> None:
        settle(work_with(receive(), limit()))

    declare(numbers)


def test_an_op_that_takes_the_batch_for_a_number_leads_to_settle_as_well() -> None:
    with pytest.raises(InvalidOption, match="size takes the batch, but nothing leads from it"):
        declare(with_numbers)
