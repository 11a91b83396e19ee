"""Every interleaving of two and of three ranks, states merged; `benchmarks/recovery.py` goes on from here."""

from __future__ import annotations

import pytest
from exhaustive import KINDS, explore

CLOSING = frozenset(("kill", "break", "drop"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "most_faults", "kinds", "anywhere", "least_states"),
    [
        (2, 2, KINDS, True, 16_000),
        (2, 6, CLOSING, True, 22_000),
        (3, 1, KINDS, True, 17_000),
    ],
)
def test_every_interleaving(
    num_ranks: int, most_faults: int, kinds: frozenset[str], anywhere: bool, least_states: int
) -> None:
    found = explore(num_ranks, most_faults, kinds=kinds, anywhere=anywhere)
    print(f"{num_ranks} ranks, {most_faults} faults of {', '.join(sorted(kinds))}: {found.num_states:,} states")
    assert found.complete
    assert found.num_states >= least_states
    assert 5 <= found.longest <= 16  # units, of which two are the time of detection
