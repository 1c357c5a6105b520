"""The names and targets of the benchmarks fit together; what they measure is not tested."""

import pytest

from benchmarks import run
from benchmarks.targets import TARGETS, add_ratios, print_table

BENCHMARKS = {**run.WITH_STACK, **run.WITH_DATABASE, **run.ALONE}


def test_every_target_is_of_a_benchmark() -> None:
    assert {name for name, _ in TARGETS} <= BENCHMARKS.keys()


def test_every_group_is_made_of_benchmarks() -> None:
    assert {name for names in run.GROUPS.values() for name in names} <= BENCHMARKS.keys()


def test_an_unknown_name_is_answered_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run.main(["bursts"])
    assert "no benchmark: bursts; there are idle, latency, " in capsys.readouterr().out


def test_a_missed_target_is_counted() -> None:
    assert print_table({"burst": {"events_per_s": 10}}) == 1


def test_a_reached_target_is_not_counted() -> None:
    assert print_table({"burst": {"events_per_s": 1_000_000}}) == 0


def test_a_failed_benchmark_counts_as_missed() -> None:
    assert print_table({"burst": {"failed": "an event is lost"}}) == 1


def test_runs_are_compared_with_stock_dagster_of_the_same_call() -> None:
    results = {"single": {"runs_per_s": 20.0}, "stock": {"runs_per_s": 0.2}}
    add_ratios(results)
    assert results["single"]["times_stock_dagster"] == 100


def test_mixes_are_compared_with_the_fastest_of_the_same_call() -> None:
    results = {"mix10": {"p50_s": 0.1}, "mix100": {"failed": "..."}, "mix1000": {"p50_s": 0.13}}
    add_ratios(results)
    assert results["mix1000"]["p50_times_the_fastest_mix"] == 1.3


def test_few_functions_that_are_slower_than_many_miss_their_target() -> None:
    results = {"mix10": {"p50_s": 0.1}, "mix100": {"p50_s": 0.05}, "mix1000": {"p50_s": 0.05}}
    add_ratios(results)
    assert print_table(results) == 1


def test_other_systems_are_compared_with_ours_of_the_same_call() -> None:
    ours = {"burst_jobs_per_s": 4000, "mix_jobs_per_s": 400, "p50_s": 0.1}
    theirs = {"burst_jobs_per_s": 400, "mix_jobs_per_s": 400, "p50_s": 0.05}
    results = {"runyard": ours, "absurd": theirs}
    add_ratios(results)
    assert {name: value for name, value in theirs.items() if "ours" in name} == {
        "burst_times_ours": 0.1,
        "mix_times_ours": 1.0,
        "p50_times_as_fast_as_ours": 2.0,
    }
