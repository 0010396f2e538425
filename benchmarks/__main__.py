"""All benchmarks, side by side, in tables: ``python -m benchmarks`` or ``make bench``; some names run only those."""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks import blacklist, firehose, sieving

#: Name: what is measured, the function, whether it needs the slice of the firehose.
ALL = {
    "blacklist": ("What a look-up on the blacklist costs", blacklist.run, False),
    "throughput": (
        "Kafka → verdict, all writes included, beside parsing only (1.5 million)",
        sieving.throughput,
        True,
    ),
    "latency": (
        "From Kafka's timestamp to the readable verdict, at 500 events a second",
        sieving.latency,
        True,
    ),
    "writer": ("What the one process that judges and writes can take", sieving.writer, True),
    "cores": ("Two partitions and two cores against one of each", sieving.cores, True),
    "flatness": ("The cost of an event among few and among many", sieving.flatness, True),
}


def _short(number: float) -> str:
    return f"{number:,.3g}" if number < 100 else f"{number:,.0f}"


def main() -> int:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(ALL)}; none: all")
    given = parser.parse_args().names or list(ALL)
    if unknown := [name for name in given if name not in ALL]:
        parser.error(f"A benchmark must be one of {', '.join(ALL)}. Got {unknown[0]}.")
    skipped = []
    for name in given:
        title, measure, needs_slice = ALL[name]
        if needs_slice and not firehose.there():
            skipped.append(name)
            continue
        begin = time.perf_counter()
        table = measure()
        print(f"\n{title} ({time.perf_counter() - begin:.0f} s)\n")
        print(
            table.to_string(
                index=False,
                float_format=lambda number: f"{number:,.3g}" if number < 100 else f"{number:,.0f}",
            )
        )
        sys.stdout.flush()
    if skipped:
        print(
            f"\nSKIPPED, NOT MEASURED: {', '.join(skipped)}. They need {firehose.FILE.name}, which is not in "
            f"{firehose.FOLDER}. Set WIKISIEVE_BENCH_DATA to the folder that has it."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
