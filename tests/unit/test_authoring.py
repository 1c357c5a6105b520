"""What contradicts itself in the light form is refused when the code loads, with the fix."""

import functools
import importlib
import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from dagster import ConfigurableResource, OpExecutionContext, job, op

from runyard import (
    Batch,
    BatchEvents,
    Cron,
    Event,
    EventData,
    InvalidOption,
    Item,
    Retry,
    Run,
    Singleton,
    Trigger,
    definitions,
    event_type,
    function,
    step,
)
from runyard.functions import registry

mistakes: list[Any] = []


@event_type("authoring/paid")
class Paid(EventData):
    amount: int


@event_type("authoring/refunded")
class Refunded(EventData):
    amount: int


class Untold(EventData):
    amount: int


class Bank(ConfigurableResource):
    name: str = "bank"


@step
def greet(item: Item) -> str:
    return f"Welcome, {item.data['name']}!"


@step
def mail(item: Item) -> str:
    return "mailed"


def plain(item: Item) -> str:
    return "plain"


def mistake(*says: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Declare that something is refused with an error that says all of this."""

    def declare(make: Callable[[], None]) -> Callable[[], None]:
        mistakes.append(pytest.param(make, says, id=make.__name__))
        return make

    return declare


def body_that(*says: str) -> Callable[[Callable[[Run], Any]], None]:
    """Declare that a function `f` with this body is refused with an error that says all of this."""

    def declare(body: Callable[[Run], Any]) -> None:
        def make() -> None:
            function("a/b", name="f")(body)

        mistakes.append(pytest.param(make, says, id=body.__name__))

    return declare


def item(**data: Any) -> Item:
    return Item(1, Event("a/b", data), 1, data)


@pytest.fixture(autouse=True)
def no_functions() -> Iterator[None]:
    with registry.use():
        yield


# --- What a body does


@body_that("function f: step config", "not a valid name", "@step(op='config_step')")
def calls_a_step_as_dagster_calls_something(run: Run) -> None:
    greet.named("config")(run)


@body_that("function f: step return", "not a valid name", "Give the step another name")
def sleeps_in_a_step_with_the_name_of_a_keyword(run: Run) -> None:
    run.sleep("return", "1d")


@mistake("function input: ", "not a valid name", "@function(..., name='input_function')")
def a_function_called_as_dagster_calls_something() -> None:
    function("a/b", name="input")(greet)


@body_that("function f has no step", "greet(run)", "@step")
def draws_nothing(run: Run) -> None: ...


@body_that("function f has no step", "@step")
def calls_a_plain_function(run: Run) -> None:
    plain(run)


@body_that("function f: its body draws the graph", "greet(run)")
def forgets_the_run(run: Run) -> None:
    greet()


@body_that("function f: its body draws the graph", "greet(run)")
def calls_a_step_with_an_item(run: Run) -> None:
    greet(item(name="Ada"))


@body_that("function f: its body draws the graph", "greet(run)")
def calls_a_step_with_a_run_and_more(run: Run) -> None:
    greet(run, 5)


@body_that("function f: its body draws the graph", "greet(run)")
def gives_the_run_by_keyword(run: Run) -> None:
    greet(run=run)


@body_that("function f: its body draws the graph", "mail(run)")
def goes_on_with_what_a_step_returned(run: Run) -> None:
    run = greet(run)
    mail(run)


@body_that("function f: step greet has no value", "item['greet']", "when=")
def uses_a_result(run: Run) -> None:
    greet(run)["a"]


@body_that("function f: step greet has no value", "when=")
def decides_by_a_result(run: Run) -> None:
    if greet(run):
        mail(run)


@body_that("function f: step greet has no value")
def compares_a_result(run: Run) -> None:
    if greet(run) == "Welcome":
        mail(run)


@body_that("function f: step greet has no value")
def chains_steps(run: Run) -> None:
    greet(run).sleep("wait", 5)


@body_that("function f: step approval has no value", "item['approval']")
def decides_by_an_event(run: Run) -> None:
    if run.wait_for_event("approval", "order/approved")["ok"]:
        greet(run)


@body_that("function f: its body raised AttributeError", "once, when the code loads", "in steps")
def looks_at_the_event(run: Run) -> None:
    if run.event.data["paid"]:
        greet(run)


@body_that("function f: its body raised TypeError", "in steps")
def looks_at_a_result_of_the_run(run: Run) -> None:
    if run["greet"]:
        greet(run)


@body_that("function f: its body raised AttributeError: 'Run' object has no attribute 'step'")
def writes_steps_as_elsewhere(run: Run) -> None:
    run.step("greet", lambda: 1)


@body_that("function f: its body raised NameError", "stand above it in the module")
def calls_a_step_that_comes_later(run: Run) -> None:
    later(run)  # noqa: F821


@body_that("function f: its body returns dict", "return nothing", "last step")
def returns_a_value(run: Run) -> dict[str, int]:
    greet(run)
    return {"n": 1}


@body_that("function f draws its graph once", "without async, yield or other parameters")
async def awaits_its_steps(run: Run) -> None:
    await greet(run)


@body_that("function f draws its graph once", "without async, yield or other parameters")
def yields_its_steps(run: Run) -> Iterator[None]:
    yield greet(run)


@body_that("function f draws its graph once", "its steps may be async and take resources")
def takes_a_resource(run: Run, bank: Bank) -> None:
    greet(run)


@body_that("function f has two steps called greet", "greet-again", ".named(")
def uses_a_step_twice(run: Run) -> None:
    greet(run)
    greet(run)


@body_that("function f has two steps called greet")
def calls_itself_without_end(run: Run) -> None:
    greet(run)
    calls_itself(run)


def calls_itself(run: Run) -> None:
    greet(run)
    calls_itself(run)


@body_that("function f: no step can be called receive", "another name")
def uses_the_name_of_an_op_of_ours(run: Run) -> None:
    greet.named("receive")(run)


@body_that("function f: no step can be called join-2")
def uses_the_name_of_a_numbered_op_of_ours(run: Run) -> None:
    greet.named("join-2")(run)


@body_that("function f: step input:", "reserved keyword")
def uses_a_name_that_dagster_reserves(run: Run) -> None:
    greet.named("input")(run)


# --- Branches


@body_that("function f: give run.parallel two branches or more")
def has_one_branch(run: Run) -> None:
    run.parallel(greet)


@body_that("function f: give run.parallel two branches or more, one by one")
def gives_branches_in_a_list(run: Run) -> None:
    run.parallel([greet, mail])


@body_that("function f: give run.parallel", "not called: run.parallel(mail, post_to_crm)")
def calls_the_branches(run: Run) -> None:
    run.parallel(greet(run), mail(run))


@body_that("function f: the branch plain of run.parallel has no step", "@step")
def has_a_plain_branch(run: Run) -> None:
    run.parallel(greet, plain)


@body_that("function f: the branch <lambda> of run.parallel draws on the run outside of it")
def draws_on_the_run_outside_of_a_branch(run: Run) -> None:
    run.parallel(lambda branch: greet(run), mail)


@body_that("function f: step greet is added to a branch of run.parallel that has ended")
def keeps_the_run_of_a_branch(run: Run) -> None:
    kept: list[Run] = []

    def keeping(branch: Run) -> None:
        kept.append(branch)
        mail(branch)

    run.parallel(keeping, mail.named("mail-too"))
    greet(kept[0])


# --- Waiting steps


@body_that("step nap of f: sleep: '3 moons' is not a duration", "7d")
def sleeps_for_moons(run: Run) -> None:
    run.sleep("nap", "3 moons")


@body_that("function f: its body raised TypeError", "missing 1 required positional", "'duration'")
def sleeps_without_a_name(run: Run) -> None:
    run.sleep("3d")


@body_that("step nap of f: sleep_until: give a datetime with a time zone")
def sleeps_until_a_time_somewhere(run: Run) -> None:
    run.sleep_until("nap", datetime(2030, 1, 1))


@body_that("step nap of f: sleep_until: give a datetime with a time zone")
def sleeps_until_a_text(run: Run) -> None:
    run.sleep_until("nap", "2030-01-01")


@body_that("step answer of f: wait_for_event(match=...): 'data..x' is not a path")
def waits_for_a_match_that_is_no_path(run: Run) -> None:
    run.wait_for_event("answer", "x/y", match="data..x")


@body_that("step answer of f: wait_for_event(filter=...): not SQL/JSON path", "$.event")
def waits_with_a_filter_of_another_language(run: Run) -> None:
    run.wait_for_event("answer", "x/y", filter="event.data.x == 1")


@body_that("step answer of f: wait_for_event(timeout=...): '-1d' is not a duration")
def waits_for_a_time_that_is_past(run: Run) -> None:
    run.wait_for_event("answer", "x/y", timeout="-1d")


@body_that("step answer of f: event='': give an event's name")
def waits_for_no_event(run: Run) -> None:
    run.wait_for_event("answer", "")


@body_that("step answer of f: event=Untold: give an event's name, or the type")
def waits_for_a_type_of_no_event(run: Run) -> None:
    run.wait_for_event("answer", Untold)


@body_that("greet is not a function: give one made with @function(...), or its name")
def invokes_a_step(run: Run) -> None:
    run.invoke("call", greet)


@body_that("plain is not a function")
def invokes_a_plain_function(run: Run) -> None:
    run.invoke("call", plain)


@body_that("step call of f: data={'a': 1}: give a function, as in lambda item:")
def invokes_with_fixed_data(run: Run) -> None:
    run.invoke("call", "other", {"a": 1})


@body_that("step call of f: invoke(timeout=...): 'soon' is not a duration")
def invokes_with_a_bad_timeout(run: Run) -> None:
    run.invoke("call", "other", timeout="soon")


@body_that("step tell of f: make=Event(", "give a function, as in lambda item: Event(")
def sends_a_fixed_event(run: Run) -> None:
    run.send_events("tell", Event("x/y"))


async def events_of(item: Item) -> Event:
    return Event("x/y")


@body_that("step tell of f: make= is called for its value, and cannot be async")
def sends_events_made_in_async_def(run: Run) -> None:
    run.send_events("tell", events_of)


# --- Steps


@mistake("a lambda has no name", "write it with def")
def a_lambda_as_a_step() -> None:
    step(lambda item: 1)


@mistake("greet is a step already", "greet.named(...)")
def a_step_decorated_twice() -> None:
    step(threads=2)(greet)


@mistake("of_functions is a function already")
def a_step_of_a_function() -> None:
    @step
    @function("a/b")
    def of_functions(item: Item) -> None: ...


@mistake("@step('charge')", "@step(name='charge')")
def a_step_with_its_name_alone() -> None:
    step("charge")


@mistake("go: its first parameter is self", "outside of the class")
def a_method_as_a_step() -> None:
    class Service:
        @step
        def go(self, item: Item) -> None: ...


@mistake("go is a method", "outside of the class")
def a_bound_method_as_a_step() -> None:
    class Service:
        def go(self, item: Item) -> None: ...

    step(Service().go)


@mistake("go is a static method", "@staticmethod above")
def a_static_method_in_the_wrong_order() -> None:
    class Service:
        @step
        @staticmethod
        def go(item: Item) -> None: ...


@mistake("Service is a class", "def")
def a_class_as_a_step() -> None:
    @step
    class Service: ...


@mistake("is not a function", "def")
def a_partial_as_a_step() -> None:
    step(functools.partial(plain))


@mistake("work takes nothing", "item: Item")
def a_step_without_parameters() -> None:
    @step
    def work() -> None: ...


@mistake("work: its first parameter is ctx", "item: Item, items: Sequence[Item]")
def a_step_of_something_else() -> None:
    @step
    def work(ctx, step) -> None: ...


@mistake("work: its first parameter is item: str")
def a_step_of_a_text() -> None:
    @step
    def work(item: str) -> None: ...


@mistake("work: its first parameter is context: ", "item: Item")
def a_step_with_the_context_first() -> None:
    @step
    def work(context: OpExecutionContext, item: Item) -> None: ...


@mistake("work: write its parameters out, without * and **")
def a_step_of_anything() -> None:
    @step
    def work(item: Item, *others: object) -> None: ...


@mistake("work: an annotation cannot be read", "Nowhere", "at the top of the module")
def a_step_with_an_annotation_of_nothing() -> None:
    @step
    def work(item: Item, bank: "Nowhere") -> None: ...  # noqa: F821


@mistake("step work: a step takes an item, and draws no graph")
def a_step_that_draws() -> None:
    @step
    def work(run: Run) -> None: ...


@mistake("step work: nothing provides its parameter amount", "a Config is called config")
def a_step_with_a_parameter_of_nobody() -> None:
    @step
    def work(item: Item, amount: int) -> None: ...

    function("a/b")(work)


@mistake("step work: its op has an input called batch")
def a_step_with_a_parameter_called_batch() -> None:
    @step
    def work(item: Item, batch: Bank) -> None: ...


@mistake("step work yields", "return a list")
def a_step_that_yields() -> None:
    @step
    def work(item: Item) -> Iterator[int]:
        yield 1


@mistake("step work yields", "return a list")
def an_async_step_that_yields() -> None:
    @step
    async def work(item: Item) -> Any:
        yield 1


@mistake("step work: an async step takes one item")
def an_async_step_of_many_items() -> None:
    @step
    async def work(items: Sequence[Item]) -> list[int]: ...


@mistake("step work has no option thread=: did you mean threads=?")
def a_misspelt_option_of_a_step() -> None:
    @step(thread=4)
    def work(item: Item) -> None: ...


@mistake("step work has no option colour=: there are name, op, threads, tasks")
def an_option_like_no_other() -> None:
    @step(colour="red")
    def work(item: Item) -> None: ...


@mistake("step work is async: give tasks= in place of threads=")
def threads_for_an_async_step() -> None:
    @step(threads=4)
    async def work(item: Item) -> None: ...


@mistake("step work is not async: give threads= in place of tasks=")
def tasks_for_a_step_that_is_not_async() -> None:
    @step(tasks=4)
    def work(item: Item) -> None: ...


@mistake("step work: threads= is not for a step that takes items: Sequence[Item]")
def threads_for_a_step_of_many_items() -> None:
    @step(threads=4)
    def work(items: Sequence[Item]) -> list[int]: ...


@mistake("step work: size= is not for a step that takes item: Item")
def a_size_for_a_step_of_one_item() -> None:
    @step(size=4)
    def work(item: Item) -> None: ...


@mistake("step work: retry= is not for a step that takes batch: Batch")
def a_retry_for_a_step_of_the_batch() -> None:
    @step(retry=Retry())
    def work(batch: Batch) -> Batch: ...


@mistake("step work: threads=0: give 1 to 5,000")
def no_threads() -> None:
    @step(threads=0)
    def work(item: Item) -> None: ...


@mistake("step work: checkpoint_every=True: give 1 to 5,000")
def a_checkpoint_that_is_no_number() -> None:
    @step(checkpoint_every=True)
    def work(item: Item) -> None: ...


@mistake("step work: retry=4: give Retry(...)")
def a_number_for_the_retry_of_a_step() -> None:
    @step(retry=4)
    def work(item: Item) -> None: ...


@mistake("step work: timeout=", "'2 moons' is not a duration")
def a_step_with_a_timeout_in_moons() -> None:
    @step(timeout="2 moons")
    def work(item: Item) -> None: ...


@mistake("step work: when='paid': give a function, as in when=lambda item:")
def a_condition_that_is_a_text() -> None:
    @step(when="paid")
    def work(item: Item) -> None: ...


async def is_paid(item: Item) -> bool:
    return False


@mistake("step work: when= is called for its value, and cannot be async")
def a_condition_that_is_async() -> None:
    @step(when=is_paid)
    def work(item: Item) -> None: ...


@mistake("step work: each=[1, 2]: give a function, as in each=lambda item:")
def elements_that_are_a_list() -> None:
    @step(each=[1, 2])
    def work(item: Item, element: int) -> None: ...


@mistake("work: write its first parameter, item, before the *")
def a_step_that_takes_its_item_by_keyword_alone() -> None:
    @step
    def work(*, item: Item) -> None: ...


@mistake("step work: each= gives the step an element", "work(item, element), and resources after")
def elements_for_a_step_with_a_resource_in_their_place() -> None:
    @step(each=lambda item: [1])
    def work(item: Item, bank: Bank, element: int) -> None: ...


@mistake("step work: each= gives the step an element", "write work(item, element)")
def elements_for_a_step_that_takes_none() -> None:
    @step(each=lambda item: [1])
    def work(item: Item) -> None: ...


@mistake("'' cannot name a step")
def a_step_with_an_empty_name() -> None:
    greet.named("")


@mistake("cannot name a step: give text of 1 to 512 characters")
def a_step_with_a_name_that_is_too_long() -> None:
    greet.named("x" * 513)


# --- Functions


@mistake("@function for work: write what starts it", '@function("work/go")')
def a_function_without_parentheses() -> None:
    @function
    def work(item: Item) -> None: ...


@mistake("function work is started by nothing", '@function("work/go")', "cron=Cron(")
def a_function_that_nothing_starts() -> None:
    @function()
    def work(item: Item) -> None: ...


@mistake("@function(['a/b', 'a/c']): give the names of events, one by one")
def events_in_a_list() -> None:
    function(["a/b", "a/c"])


@mistake("@function(Event(name='a/b'", "give the names of events")
def an_event_for_its_name() -> None:
    function(Event("a/b"))


@mistake("function work: Trigger(event='')")
def an_event_without_a_name() -> None:
    @function("")
    def work(item: Item) -> None: ...


@mistake("@function(int)", "EventData", "@event_type(...)")
def a_type_of_something_else() -> None:
    function(int)


@mistake("function work: Untold is the type of no event", '@event_type("...")')
def a_type_of_no_event() -> None:
    @function(Untold)
    def work(item: Item[Untold]) -> None: ...


@mistake("function work: step work takes Item[Refunded]", "events is Paid")
def an_item_of_another_event() -> None:
    @function(Paid)
    def work(item: Item[Refunded]) -> None: ...


@mistake("function work: step work takes Item[Refunded]", "events is Paid")
def an_item_of_another_event_given_by_name() -> None:
    @function("authoring/paid")
    def work(item: Item[Refunded]) -> None: ...


@mistake("function work: step work takes Item[Refunded]", "events is Paid")
def an_item_of_one_of_two_events() -> None:
    @function(Paid, Refunded)
    def work(item: Item[Refunded]) -> None: ...


@mistake("function work: step refund takes Item[Refunded]", "events is Paid")
def a_step_of_another_event() -> None:
    @step
    def refund(item: Item[Refunded]) -> None: ...

    @function(Paid)
    def work(run: Run) -> None:
        refund(run)


@mistake("work is a function already: give all its events to one @function(...)")
def a_function_decorated_twice() -> None:
    @function("a/c")
    @function("a/b")
    def work(item: Item) -> None: ...


@mistake("work is an op: leave @op out")
def an_op_as_a_function() -> None:
    @function("a/b")
    @op
    def work(item): ...


@mistake("work is a job", "on_event(..., job=work)")
def a_job_as_a_function() -> None:
    @function("a/b")
    @job
    def work() -> None: ...


@mistake("function '<lambda>': give it a name of letters, digits and underscores")
def a_lambda_as_a_function() -> None:
    function("a/b")(lambda item: 1)


@mistake("function 'grüsse-ä': give it a name of letters")
def a_function_with_a_name_that_dagster_does_not_take() -> None:
    function("a/b", name="grüsse-ä")(plain)


@mistake("function '': give it a name of letters")
def a_function_with_an_empty_name() -> None:
    function("a/b", name="")(plain)


@mistake("function settle: no step can be called settle")
def a_function_called_as_an_op_of_ours() -> None:
    function("a/b", name="settle")(plain)


@mistake("two functions are called work", "another name")
def two_functions_of_one_name() -> None:
    function("a/b", name="work")(plain)
    function("a/c", name="work")(plain)


@mistake("function work has no option retries=: did you mean retry=?")
def a_misspelt_option() -> None:
    function("a/b", name="work", retries=3)(plain)


@mistake("function work: write its events without event=", '@function("work/go")')
def an_event_by_keyword() -> None:
    function(event="a/b", name="work")(plain)


@mistake("function work: threads= is for steps: write @step(threads=...) below @function")
def an_option_of_a_step() -> None:
    function("a/b", name="work", threads=8)(plain)


@mistake("@function('0 6 * * 1-5'): that is a schedule", "cron=Cron('0 6 * * 1-5')")
def a_schedule_for_an_event() -> None:
    function("0 6 * * 1-5")


@mistake("function work: batch=... and singleton=... contradict each other")
def options_that_contradict_each_other() -> None:
    function("a/b", name="work", batch=BatchEvents(), singleton=Singleton())(plain)


@mistake("function work: on_failure='mourn': give a step, or a Python function")
def a_name_for_a_callback() -> None:
    function("a/b", name="work", on_failure="mourn")(plain)


@mistake("function work: on_failure=EventFunction(mourn): give a step, or a Python function")
def a_function_with_events_as_a_callback() -> None:
    mourn = function("a/c", name="mourn")(plain)
    function("a/b", name="work", on_failure=mourn)(plain)


@mistake("function work_on_failure: step refund takes Item[Refunded]", "events is dict")
def a_callback_that_takes_the_data_of_another_event() -> None:
    def refund(item: Item[Refunded]) -> None: ...

    function("a/b", name="work", on_failure=step(refund))(plain)


@mistake("function work_on_failure has no step")
def a_callback_that_draws_nothing() -> None:
    def nothing(run: Run) -> None: ...

    function("a/b", name="work", on_failure=nothing)(plain)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("retry", 4, "give Retry(...)"),
        ("concurrency", 4, "give Concurrency(...)"),
        ("concurrency", [4], "give Concurrency(...)"),
        ("throttle", 5, "give Throttle(...)"),
        ("rate_limit", 5, "give RateLimit(...)"),
        ("debounce", "10s", "give Debounce(...)"),
        ("batch", 10, "give BatchEvents(...)"),
        ("singleton", True, "give Singleton(...)"),
        ("timeouts", "5s", "give Timeouts(...)"),
        ("cancel_on", "x/y", "give CancelOn(...)"),
        ("cron", "* * * * *", "give Cron(...)"),
        ("max_batch", "5", "give a whole number"),
        ("priority", "high", "give a whole number or Priority(...)"),
        ("idempotency", 5, "give text or Idempotency(...)"),
        ("filter", {"a": 1}, "give text"),
        ("cron", Cron("* * * *"), "is not a cron expression"),
        ("max_batch", 0, "give 1 to 5000"),
        ("priority", 601, "give -600 to 600"),
        ("filter", "event.data.x == 1", "not SQL/JSON path"),
    ],
)
def test_an_option_is_refused_with_the_function(option: str, value: object, says: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        function("a/b", name="work", **{option: value})(plain)
    assert str(refused.value).startswith("function work: ")
    assert says in str(refused.value)


@pytest.mark.parametrize(("make", "says"), mistakes)
def test_a_mistake_is_refused_with_the_fix(make: Callable[[], None], says: Sequence[str]) -> None:
    with pytest.raises(InvalidOption) as refused:
        make()
    assert [part for part in says if part not in str(refused.value)] == []
    assert "on_event for" not in str(refused.value)


def test_the_traceback_of_an_error_in_a_body_shows_its_line() -> None:
    def body(run: Run) -> None:
        run.nonsense()

    with pytest.raises(InvalidOption) as refused:
        function("a/b")(body)
    assert [entry.name for entry in refused.traceback][-1] == "body"


@pytest.mark.parametrize("option", ["retry", "cron", "on_failure", "concurrency", "name"])
def test_none_stands_for_an_option_that_is_not_given(option: str) -> None:
    assert function("a/b", **{option: None})(plain).name == "plain"


# --- What works


def test_a_step_is_called_in_a_test_as_the_function_that_it_is() -> None:
    assert greet(item(name="Ada")) == "Welcome, Ada!"


def test_a_step_takes_its_item_by_keyword() -> None:
    assert greet(item=item(name="Ada")) == "Welcome, Ada!"


def test_a_function_of_one_step_is_called_in_a_test_as_the_function_that_it_is() -> None:
    assert function("a/b")(plain)(item()) == "plain"


def test_a_function_of_a_graph_is_drawn_when_it_is_made_and_never_again() -> None:
    drawn: list[str] = []

    @function("a/b")
    def work(run: Run) -> None:
        drawn.append("drawn")
        greet(run)

    definitions(work).get_repository_def()
    assert drawn == ["drawn"]


def test_a_run_that_was_kept_draws_nothing_more() -> None:
    kept: list[Run] = []

    @function("a/b")
    def work(run: Run) -> None:
        kept.append(run)
        greet(run)

    with pytest.raises(InvalidOption, match="function work has been drawn already"):
        mail(kept[0])


def test_a_run_that_was_kept_draws_nothing_in_another_function() -> None:
    kept: list[Run] = []

    @function("a/b")
    def work(run: Run) -> None:
        kept.append(run)
        greet(run)

    with pytest.raises(InvalidOption, match="function work has been drawn already"):

        @function("a/b")
        def other(run: Run) -> None:
            greet(kept[0])


def test_a_step_and_a_function_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(greet)) is greet


def test_names_that_look_the_same_to_dagster_are_different_ops() -> None:
    @function("a/b")
    def work(run: Run) -> None:
        greet.named("a-b")(run)
        greet.named("a_b")(run)
        greet.named("日本")(run)
        greet.named("中国")(run)

    assert set(work.job.graph.node_dict) == {"receive", "a_b", "a_b_2", "_", "__2", "settle"}


def test_a_step_of_a_loop_has_a_name_of_its_own_each_time() -> None:
    @function("a/b")
    def work(run: Run) -> None:
        for number in range(3):
            greet.named(f"greet-{number}")(run)

    assert {"greet_0", "greet_1", "greet_2"} <= set(work.job.graph.node_dict)


def test_a_step_with_a_long_name_is_drawn() -> None:
    @function("a/b")
    def work(run: Run) -> None:
        greet.named("x" * 512)(run)

    assert "x" * 512 in work.job.graph.node_dict


def test_a_step_serves_two_functions() -> None:
    @function("a/b")
    def one(run: Run) -> None:
        greet(run)

    @function("a/b")
    def two(run: Run) -> None:
        greet(run)

    assert definitions(one, two).get_repository_def().has_job("two")


def test_a_static_method_is_a_step() -> None:
    class Service:
        @staticmethod
        @step
        def go(item: Item) -> None: ...

    @function("a/b")
    def work(run: Run) -> None:
        Service.go(run)

    assert "go" in work.job.graph.node_dict


def test_a_wrapped_function_is_a_step_with_the_signature_of_the_inner_one() -> None:
    def logged(do: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(do)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return do(*args, **kwargs)

        return wrapper

    @step
    @logged
    def work(item: Item, bank: Bank) -> str:
        return bank.name

    [made] = [each for each in function("a/b")(work).job.all_node_defs if "work" in each.name]
    assert made.required_resource_keys == {"bank"}


@pytest.mark.parametrize(
    "annotation",
    [
        Item,
        Item[Any],
        Item[Paid],
        Item[EventData],
        Item[Paid | Refunded],
        Item[Paid | dict[str, Any]],
    ],
)
def test_an_item_of_the_event_is_taken_in_every_form(annotation: Any) -> None:
    def work(item: Any) -> None: ...

    work.__annotations__["item"] = annotation
    assert function(Paid)(work).name == "work"


def test_a_step_with_a_condition_may_be_for_one_of_two_events() -> None:
    @step(when=lambda item: isinstance(item.data, Paid))
    def charge(item: Item[Paid]) -> None: ...

    @function(Paid, Refunded)
    def work(run: Run) -> None:
        charge(run)
        greet(run)

    assert "charge" in work.job.graph.node_dict


def test_a_trigger_and_a_type_start_the_same_function() -> None:
    @function(Trigger("a/b", "$.data.x > 1"), Paid)
    def work(item: Item) -> None: ...

    [known] = registry.functions()
    assert [str(rule) for rule in known.rules] == ["a/b if $.data.x > 1", "authoring/paid"]


def test_the_docstring_describes_the_job_and_the_op() -> None:
    @function("a/b")
    def work(item: Item) -> None:
        """Do the work."""

    of_op = work.job.graph.node_dict["work"].definition.description
    assert [work.job.description, of_op] == ["Do the work."] * 2


def test_the_sensor_says_what_starts_the_function() -> None:
    @function("a/b")
    def work(item: Item) -> None:
        """Do the work."""

    assert (work.sensor.description or "").startswith("Runs work on a/b: up to 500 events per run")


# --- Results


def with_outputs(**outputs: Any) -> Item:
    made = item()
    made.outputs.update(outputs)
    return made


def test_a_result_has_the_type_that_the_step_returns() -> None:
    @dataclass
    class Receipt:
        number: int
        at: datetime

    def charge(item: Item) -> object: ...

    charge.__annotations__["return"] = Receipt
    kept = with_outputs(charge={"number": 5, "at": "2030-01-01T00:00:00Z"})
    receipt = step(charge).result(kept)
    assert isinstance(receipt, Receipt)
    assert receipt.at.year == 2030


def test_a_result_of_an_async_step_has_the_type_that_it_returns_in_the_end() -> None:
    @step
    async def count(item: Item) -> set[int]: ...

    assert count.result(with_outputs(count=[1, 2])) == {1, 2}


def test_results_of_elements_stand_in_their_order() -> None:
    @step(each=lambda item: [1, 2])
    def section(item: Item, number: int) -> tuple[int, str]: ...

    kept = with_outputs(**{"section-2": [2, "b"], "section-1": [1, "a"]})
    assert section.results(kept) == [(1, "a"), (2, "b")]


def test_a_step_of_many_items_has_a_result_for_each_without_the_errors() -> None:
    @step
    def rate(items: Sequence[Item]) -> list[int | Exception]: ...

    assert rate.result(with_outputs(rate=3)) == 3


def test_a_result_without_an_annotation_is_what_was_kept() -> None:
    @step
    def work(item: Item): ...

    assert work.result(with_outputs(work={"a": [1]})) == {"a": [1]}


def test_a_step_that_has_not_completed_has_no_result() -> None:
    with pytest.raises(KeyError, match="step 'greet' has no result yet; completed: mail"):
        greet.result(with_outputs(mail="mailed"))


def test_a_result_that_pydantic_cannot_read_back_is_refused_with_the_fix() -> None:
    class Opaque: ...

    def work(item: Item) -> object: ...

    work.__annotations__["return"] = Opaque
    with pytest.raises(InvalidOption, match=r'step work: .* a dataclass .*item\["work"\]'):
        step(work).result(with_outputs(work={}))


# --- Definitions


def module(name: str, **content: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(content)
    return made


def test_a_module_without_functions_is_refused() -> None:
    with pytest.raises(InvalidOption, match="the module empty has no functions"):
        definitions(module("empty", greet=greet))


@pytest.mark.parametrize("part", [greet, [greet], "shop", None])
def test_a_part_that_is_no_function_is_refused(part: Any) -> None:
    with pytest.raises(InvalidOption, match="give functions made with"):
        definitions(part)


def test_a_function_in_two_modules_is_taken_once() -> None:
    work = function("a/b", name="work")(plain)
    both = definitions(module("one", work=work), module("two", again=work), work)
    assert both.get_repository_def().has_job("work")


PACKAGE = {
    "__init__.py": "",
    "__main__.py": "raise SystemExit('was run')",
    "one.py": (
        "from __future__ import annotations\n"
        "from runyard import Item, function\n"
        "@function('a/b')\n"
        "def first(item: Item) -> str: ...\n"
    ),
    "deeper/__init__.py": "",
    "deeper/two.py": (
        "from runyard import Item, function\n"
        "from package_of_functions.one import first\n"
        "@function('a/b')\n"
        "def second(item: Item) -> str: ...\n"
    ),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A package with functions in two of its modules."""
    for name, text in PACKAGE.items():
        path = tmp_path / "package_of_functions" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("package_of_functions")
    for name in [name for name in sys.modules if name.startswith("package_of_functions")]:
        del sys.modules[name]


def test_a_package_gives_the_functions_of_all_its_modules(package: types.ModuleType) -> None:
    repository = definitions(package).get_repository_def()
    assert {"first", "second"} <= set(repository.job_names)


def test_a_package_is_not_run(package: types.ModuleType) -> None:
    definitions(package)
    assert "package_of_functions.__main__" not in sys.modules


def test_two_functions_of_one_name_in_two_modules_are_refused_with_both(
    package: types.ModuleType,
) -> None:
    first = importlib.import_module("package_of_functions.one").first

    def other(item: Item) -> str: ...

    twin = function("a/b", name="first")(other)
    with pytest.raises(InvalidOption) as refused:
        definitions(first, twin)
    assert str(refused.value) == (
        "there are two functions called first, in package_of_functions.one and in"
        " tests.unit.test_authoring: rename one of them"
    )


def test_a_module_that_is_loaded_again_replaces_its_functions(package: types.ModuleType) -> None:
    one = importlib.import_module("package_of_functions.one")
    assert importlib.reload(one).first is not None
