"""All benchmarks, side by side, in tables: ``python -m benchmarks`` or ``make bench``; some names run only those."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import blacklist, firehose, online

#: Name: what is measured, and the function.
ALL = {
    "blacklist": ("What a look-up on the blacklist costs", blacklist.run),
    "throughput": (
        "Kafka → verdict, all writes included, beside parsing only (1.5 million)",
        online.throughput,
    ),
    "latency": ("From Kafka's timestamp to the readable verdict, at 500 events a second", online.latency),
    "cores": ("Two partitions and two cores against one of each", online.cores),
    "flatness": ("The cost of an event among few and among many", online.flatness),
}


def _short(number: float) -> str:
    return f"{number:,.3g}" if number < 100 else f"{number:,.0f}"


def main() -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(ALL)}; none: all")
    names = parser.parse_args().names or list(ALL)
    if unknown := [name for name in names if name not in ALL]:
        parser.error(f"A benchmark must be one of {', '.join(ALL)}. Got {unknown[0]}.")
    print(f"The load is {firehose.described()}.")
    for name in names:
        title, measure = ALL[name]
        start = time.perf_counter()
        table = measure()
        print(f"\n{title} ({time.perf_counter() - start:.0f} s)\n")
        print(table.to_string(index=False, float_format=_short), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
