"""The functions under measurement: three trivial steps, in batches and in one run per event."""

from benchmarks.steps import three_steps
from runyard import definitions, function

bench_batched = function("bench/batched", name="bench_batched", max_batch=2000)(three_steps)
bench_single = function("bench/single", name="bench_single", max_batch=1)(three_steps)

defs = definitions(bench_batched, bench_single)
