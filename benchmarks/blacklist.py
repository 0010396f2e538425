"""What a look-up on the blacklist costs and what a member weighs: the filter, pybloom-live's bare one, and a set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter

import pandas as pd
from pybloom_live import BloomFilter

from lib.blacklist.bloom import ERROR_RATE, BlacklistFilter
from lib.blacklist.ledger import Entry, Ledger

RUNS = 5


def run(members: int = 100_000, look_ups: int = 100_000) -> pd.DataFrame:
    """Measure, for half members and half unseen users, the best of some runs.

    Parameters
    ----------
    members : int
        Users on the list; every filter is full.
    look_ups : int
        Names to ask about.

    Returns
    -------
    DataFrame
        Columns `structure`, `bytes per member`, `ns per look-up`, `against the bare filter` (ratio of the times).
    """
    users = [f"Member {number}" for number in range(members)]
    asked = [f"Member {2 * number}" for number in range(look_ups)][: look_ups // 2]
    asked += [f"Unseen user {number}" for number in range(look_ups - len(asked))]
    bloom = BlacklistFilter.build(users, members)
    bare = BloomFilter(members, ERROR_RATE)
    for user in users:
        bare.add(user)
    with Ledger.open(":memory:") as ledger:
        ledger.add(Entry(user, "bench", 0) for user in users)
        plain = set(users)
        ways: dict[str, tuple[float, Callable[[Sequence[str]], object]]] = {
            "pybloom-live BloomFilter, one by one": (len(bare.bitarray) / 8, _one_by_one(bare)),
            "filter, one by one": (len(bloom.bitarray) / 8, _one_by_one(bloom)),
            "filter, in bulk": (len(bloom.bitarray) / 8, bloom.contains),
            "Python set": (_size_of_set(plain), _one_by_one(plain)),
            "ledger (the exact answer)": (_size_of_ledger(ledger), _one_by_one(ledger)),
        }
        measured = {name: (size / members, _best(ask, asked)) for name, (size, ask) in ways.items()}
    reference = measured["pybloom-live BloomFilter, one by one"][1]
    return pd.DataFrame(
        [
            {
                "structure": name,
                "bytes per member": round(size, 2),
                "ns per look-up": round(1e9 * seconds / look_ups),
                "against the bare filter": round(seconds / reference, 2),
            }
            for name, (size, seconds) in measured.items()
        ]
    )


def _one_by_one(container: object) -> Callable[[Iterable[str]], object]:
    return lambda users: [user in container for user in users]  # type: ignore[operator]


def _best(ask: Callable[[Sequence[str]], object], users: Sequence[str]) -> float:
    times = []
    for _ in range(RUNS):
        start = perf_counter()
        ask(users)
        times.append(perf_counter() - start)
    return min(times)


def _size_of_set(users: set[str]) -> int:
    return sys.getsizeof(users) + sum(sys.getsizeof(user) for user in users)


def _size_of_ledger(ledger: Ledger) -> int:
    pages, size = (
        ledger.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return int(pages * size)


if __name__ == "__main__":
    print(run().to_string(index=False))
