"""Functions that the loop of the sensors leaves alone for a while."""

import time

import pytest

from runyard.dagster_adapter.postponements import Postponements


@pytest.fixture
def postponements() -> Postponements:
    return Postponements(5.0)


def test_each_wait_for_an_unknown_time_is_longer(postponements: Postponements) -> None:
    waits = []
    for _ in range(8):
        postponements.postpone_longer("f")
        waits.append(postponements.seconds_left("f"))
    assert waits == sorted(waits)


def test_a_known_time_is_kept_however_often_a_function_was_postponed(
    postponements: Postponements,
) -> None:
    for _ in range(20):
        postponements.postpone_longer("f")
    postponements.postpone("f", 0.5)
    assert 0.1 < postponements.seconds_left("f") <= 0.5


def test_a_notification_ends_the_wait(postponements: Postponements) -> None:
    postponements.trying("f")
    postponements.postpone("f", 1.0)
    postponements.interrupt()
    assert postponements.seconds_left("f") == 0.0


def test_a_claim_that_took_long_is_not_repeated_with_every_notification(
    postponements: Postponements,
) -> None:
    postponements.trying("f")
    time.sleep(0.05)
    postponements.postpone("f", 1.0)
    postponements.interrupt()
    assert postponements.seconds_left("f") > 0.1


def test_a_function_that_was_launched_waits_no_longer(postponements: Postponements) -> None:
    postponements.postpone_longer("f", 1.0)
    postponements.launched("f")
    assert postponements.seconds_left("f") == 0.0
