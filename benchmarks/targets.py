"""What the benchmarks are to reach on 2 cores with the embedded database, and the table of results.

A ratio of two benchmarks is added to the results when both were run in the same call.
"""

from typing import Any

Result = dict[str, Any]

_ONE_EVENT_PER_S = {
    "start_s": ("<", 30.0),
    "p50_s": ("<", 0.12),
    "p99_s": ("<", 0.3),
    "p50_times_the_fastest_mix": ("<", 1.3),
}
_MIXES: dict[str, dict[str, tuple[str, float]]] = {
    "mix10": _ONE_EVENT_PER_S | {"idle_percent_of_one_core": ("<", 4)},
    "mix100": _ONE_EVENT_PER_S,
    "mix1000": _ONE_EVENT_PER_S | {"idle_percent_of_one_core": ("<", 4)},
    "load20": {"p50_s": ("<", 0.3), "p99_s": ("<", 1.5)},
    "load50": {"p50_s": ("<", 1), "p99_s": ("<", 3), "backlog_growth_s": ("<", 1)},
    "load200": {"p50_s": ("<", 3), "backlog_growth_s": ("<", 1)},
}
TARGETS: dict[tuple[str, str], tuple[str, float]] = {
    ("idle", "percent_of_one_core"): ("<", 4),
    ("latency", "p50_s"): ("<", 0.12),
    ("latency", "p99_s"): ("<", 0.3),
    ("single", "runs_per_s"): (">", 20),
    ("single", "times_stock_dagster"): (">", 100),
    ("burst", "events_per_s"): (">", 5000),
    ("claim", "ratio"): ("<", 1.3),
    ("flow", "by_tenant_ratio"): ("<", 2),
    ("flow", "limits_ratio"): ("<", 2),
    ("admission", "admission_ratio"): ("<", 3),
    ("admission", "everything_ratio"): ("<", 3),
    ("ingest", "single_requests_per_s"): (">", 2000),
    ("ingest", "events_per_s_in_arrays_of_100"): (">", 20_000),
    ("pages", "first_page_ms"): ("<", 200),
    ("analytics", "seconds_for_1e6_events"): ("<", 10),
    ("media", "times_plain_pillow"): (">", 1),
    ("forms", "cpu_times_the_long_form"): ("<", 1.05),
    ("forms", "load_300_functions_s"): ("<", 3),
    ("traces", "cpu_times_without"): ("<", 1.1),
    ("traces", "time_times_without"): ("<", 1.1),
    ("keep", "growth_after_retention"): ("<", 1.1),
    ("sync", "most_memory_mb"): ("<", 700),
    ("app_burst", "events_per_s_of_2000"): (">", 70),
    ("app_burst", "share_of_bare_client_of_500"): (">", 0.7),
    ("app_burst", "share_of_bare_client_of_2000"): (">", 0.7),
    ("app_latency", "p50_s"): ("<", 0.15),
    ("app_slow", "all_done_s"): ("<", 15),
    ("app_slow", "most_at_a_time"): (">", 499),
    ("app_suspended", "runs_in_progress"): ("<", 1),
    ("app_suspended", "open_calls"): ("<", 1),
    ("app_suspended", "more_processes"): ("<", 1),
    # What must not grow with the history.
    **{
        ("table_size", f"{measure}_exponent"): ("<", 0.15)
        for measure in ("send_100_ms", "claim_500_ms", "first_page_ms", "by_id_ms", "metrics_ms")
    },
    **{
        (name, measure): target
        for name, targets in _MIXES.items()
        for measure, target in (targets | {"left": ("<", 1)}).items()
    },
}


def add_ratios(results: dict[str, Result]) -> None:
    """Add the ratios between benchmarks of this call to the results."""
    if _measured(results, "single", "runs_per_s") and _measured(results, "stock", "runs_per_s"):
        results["single"]["times_stock_dagster"] = round(
            results["single"]["runs_per_s"] / results["stock"]["runs_per_s"], 1
        )
    mixes = [name for name in ("mix10", "mix100", "mix1000") if _measured(results, name, "p50_s")]
    for name in mixes if len(mixes) > 1 else ():
        fastest = min(results[mix]["p50_s"] for mix in mixes)
        results[name]["p50_times_the_fastest_mix"] = round(results[name]["p50_s"] / fastest, 2)

    for name in ("absurd", "celery", "procrastinate", "dbos"):
        if _measured(results, "runyard", "p50_s") and _measured(results, name, "p50_s"):
            results[name] |= _compared(results["runyard"], results[name])


def _compared(ours: Result, theirs: Result) -> Result:
    """Ratios to ours: above 1 where the other system is faster."""
    return {
        "burst_times_ours": round(theirs["burst_jobs_per_s"] / ours["burst_jobs_per_s"], 2),
        "mix_times_ours": round(theirs["mix_jobs_per_s"] / ours["mix_jobs_per_s"], 2),
        "p50_times_as_fast_as_ours": round(ours["p50_s"] / theirs["p50_s"], 2),
    }


def _measured(results: dict[str, Result], name: str, measure: str) -> bool:
    return measure in results.get(name, {})


def print_table(results: dict[str, Result]) -> int:
    """Print the results beside their targets; return how many failed or missed theirs."""
    missed = 0
    print(f"{'benchmark':<24} {'measure':<32} {'result':>12}   target")
    for name, result in results.items():
        for measure, value in result.items():
            if isinstance(value, str):
                missed += measure == "failed"
                print(f"{name:<24} {measure:<32} {value}")
                continue
            sign, bound = TARGETS.get((name, measure), ("", 0.0))
            ok = not sign or (value < bound if sign == "<" else value > bound)
            missed += not ok
            target = f"{sign} {bound:g}{'' if ok else '  MISSED'}" if sign else ""
            print(f"{name:<24} {measure:<32} {value:>12}   {target}")
    return missed
