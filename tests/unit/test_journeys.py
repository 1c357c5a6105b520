"""The way of an invocation through a remote function: what is to be done after each answer."""

from runyard.apps.answers import (
    Failed,
    Keep,
    MakeRequest,
    Meaning,
    Plan,
    Retry,
    Sleep,
    Step,
    StepFailed,
    Succeeded,
    error_of,
)
from runyard.apps.journey import MAX_STEPS, Journey, Next
from runyard.apps.requests import Memos

A, B = Step("a" * 40, "a"), Step("b" * 40, "b")
ERROR = error_of("Error", "no")


def begun(*effects: object, version: int | None = 2) -> Journey:
    """A journey that has had one answer, whose results are kept."""
    journey = Journey(Memos())
    answer(journey, *effects, version=version)
    return journey


def answer(journey: Journey, *effects: object, version: int | None = 2) -> None:
    assert journey.next() is Next.CALL
    journey.begin_call()
    for keep in journey.take(Meaning(tuple(effects), version)).keeps:  # type: ignore[arg-type]
        journey.done(keep.step.id, keep.memo)


def test_it_begins_with_a_call() -> None:
    assert Journey(Memos()).next() is Next.CALL


def test_the_function_is_called_again_after_a_step() -> None:
    assert begun(Keep(A, {"data": 1})).next() is Next.CALL


def test_a_function_that_has_returned_has_ended() -> None:
    journey = begun(Succeeded(5))
    assert (journey.next(), journey.ending) == (Next.END, Succeeded(5))


def test_results_beside_the_end_are_kept() -> None:
    journey = begun(Keep(A, {"data": 1}), Succeeded(5))
    assert (journey.memos.stack, journey.next()) == ([A.id], Next.END)


def test_a_sleeping_function_is_left_alone() -> None:
    assert begun(Sleep(A, seconds=5)).next() is Next.PARK


def test_a_function_goes_on_after_its_sleep() -> None:
    journey = begun(Sleep(A, seconds=0))
    journey.done(A.id, None, of_wait=True)
    assert (journey.next(), journey.memos.texts) == (Next.CALL, {A.id: "null"})


def test_planned_steps_are_awaited() -> None:
    journey = begun(Plan(A), Plan(B))
    assert (journey.next(), journey.in_parallel) == (Next.AWAIT, True)


def test_in_version_2_the_function_is_called_when_all_steps_of_a_group_are_done() -> None:
    journey = begun(Plan(A), Plan(B), version=2)
    journey.done(A.id, {"data": 1})
    after_one = journey.next()
    journey.done(B.id, {"data": 2})
    assert (after_one, journey.next()) == (Next.AWAIT, Next.CALL)


def test_in_version_1_the_function_is_called_after_each_step_of_a_group() -> None:
    journey = begun(Plan(A), Plan(B), version=1)
    journey.done(A.id, {"data": 1})
    assert journey.next() is Next.CALL


def test_in_a_race_the_function_is_called_after_the_first_step() -> None:
    journey = begun(Plan(Step(A.id, "a", is_race=True)), Plan(Step(B.id, "b", is_race=True)))
    journey.done(A.id, {"data": 1})
    assert journey.next() is Next.CALL


def test_steps_that_are_out_already_are_not_called_twice() -> None:
    journey = begun(Plan(A), Plan(B), version=1)
    journey.done(A.id, {"data": 1})
    journey.begin_call()
    assert journey.take(Meaning((Plan(B),))).plans == []


def test_steps_that_are_done_already_are_not_kept_twice() -> None:
    journey = begun(Keep(A, {"data": 1}))
    journey.begin_call()
    assert journey.take(Meaning((Keep(A, {"data": 2}),))).keeps == []


def test_a_function_that_returns_while_steps_are_out_has_ended() -> None:
    journey = begun(Plan(A), Plan(B), version=1)
    journey.done(A.id, {"data": 1})
    answer(journey, Succeeded("the first"))
    assert journey.next() is Next.END


def test_the_answer_of_a_step_is_kept() -> None:
    journey = begun(Plan(A), Plan(B))
    todo = journey.take_step(A, Meaning((Keep(A, {"data": 1}),)))
    assert todo.keeps == [Keep(A, {"data": 1})]


def test_the_order_in_which_steps_ended_is_that_of_the_stack() -> None:
    journey = begun(Plan(A), Plan(B))
    journey.done(B.id, {"data": 2})
    journey.done(A.id, {"data": 1})
    assert journey.memos.stack == [B.id, A.id]


def test_a_failed_step_is_tried_again_when_the_others_are_done() -> None:
    journey = begun(Plan(A), Plan(B))
    journey.take_step(A, Meaning((Retry(ERROR, 30),)))
    while_out = journey.next()
    journey.done(B.id, {"data": 2})
    assert (while_out, journey.next(), journey.step_retry) == (Next.AWAIT, Next.RETRY, 30)


def test_a_step_that_failed_in_the_function_is_tried_again() -> None:
    assert begun(StepFailed(A, ERROR)).next() is Next.RETRY


def test_a_failed_call_is_tried_again() -> None:
    assert begun(Retry(ERROR)).next() is Next.RETRY


def test_a_failure_for_good_in_a_step_ends_the_function() -> None:
    journey = begun(Plan(A), Plan(B))
    journey.take_step(A, Meaning((Failed(ERROR),)))
    assert journey.next() is Next.END


def test_a_function_that_has_nothing_to_do_is_asked_once_more_and_fails_then() -> None:
    journey = begun()
    once_more = journey.next()
    answer(journey)
    assert (once_more, journey.next(), type(journey.ending)) == (Next.CALL, Next.END, Failed)


def test_a_run_of_too_many_steps_fails() -> None:
    journey = Journey(Memos())
    for number in range(MAX_STEPS + 1):
        journey.done(f"{number:040x}", {"data": None})
    assert isinstance(journey.ending, Failed)


def test_results_of_steps_that_ended_one_after_the_other_are_not_parallel() -> None:
    journey = begun(Keep(A, {"data": 1}), Keep(B, {"data": 2}))
    assert (journey.in_parallel, journey.next()) == (False, Next.CALL)


def test_after_a_group_in_version_2_steps_run_at_once_again() -> None:
    journey = begun(Plan(A), Plan(B), version=2)
    journey.done(A.id, {"data": 1})
    journey.done(B.id, {"data": 2})
    journey.begin_call()
    assert not journey.in_parallel


def test_after_a_group_in_version_1_steps_are_planned_as_before() -> None:
    journey = begun(Plan(A), Plan(B), version=1)
    journey.done(A.id, {"data": 1})
    journey.done(B.id, {"data": 2})
    journey.begin_call()
    assert journey.in_parallel


def test_a_step_that_was_kept_before_the_answer_is_no_news_to_the_function() -> None:
    journey = Journey(Memos())
    journey.begin_call()
    journey.checkpointed(A.id, {"data": 1})
    journey.take(Meaning((Sleep(B, seconds=5),), 2))
    assert (journey.memos.stack, journey.next()) == ([A.id], Next.PARK)


def test_a_request_is_waited_for_like_a_call() -> None:
    journey = begun(MakeRequest(A, False, {}))
    assert (journey.next(), journey.in_parallel) == (Next.AWAIT, False)
    journey.done(A.id, {"data": {}})
    assert journey.next() is Next.CALL


def test_a_request_that_is_out_is_not_made_again() -> None:
    journey = begun(MakeRequest(A, False, {}), Plan(B))
    journey.done(B.id, {"data": 1})
    journey.begin_call()
    assert journey.take(Meaning((MakeRequest(A, False, {}),), 2)).requests == []


def test_a_request_that_has_failed_is_made_again_later() -> None:
    journey = begun(MakeRequest(A, False, {}))
    journey.take_step(A, Meaning((StepFailed(A, ERROR),), 2))
    assert journey.next() is Next.RETRY


def test_a_run_may_be_failed_whatever_its_application_says() -> None:
    journey = begun(Sleep(A, seconds=5))
    journey.fail(ERROR)
    assert (journey.next(), journey.ending) == (Next.END, Failed(ERROR))
