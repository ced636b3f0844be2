"""Run every benchmark: `make bench`. The last column is the ratio that counts; see each module."""

from benchmarks import (
    bench_data,
    bench_journal,
    bench_merge,
    bench_monitor,
    bench_nights,
    bench_queue,
    bench_status,
    bench_training,
    bench_watching,
)

MODULES = (
    bench_journal,
    bench_status,
    bench_queue,
    bench_data,
    bench_training,
    bench_merge,
    bench_nights,
    bench_monitor,
    bench_watching,
)

for module in MODULES:
    print(f"\n{(module.__doc__ or '').splitlines()[0]}")
    module.main()
