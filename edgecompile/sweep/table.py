"""The table of a sweep: common settings, swept settings and the best point, for people, scripts and spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from edgecompile.contract.quantities import format_items_rate, format_time

__all__ = ["best_row", "common_overrides", "csv_text", "swept_keys", "swept_values", "table_parts"]

FIGURES = ("throughput", "latency", "memory head-room", "hosts used")
BEST = "best"
VALUES = (
    "throughput_items_per_s",
    "latency_s",
    "period_s",
    "gap",
    "hosts",
    "memory_headroom",
    "bottleneck",
    "plan",
    "error",
)
"""Of a row, as sweep.csv has them behind the swept keys; empty where there is no plan, or no error."""


def common_overrides(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What all points of a sweep share, in order; nothing where there is one point alone."""
    if len(rows) < 2:
        return []
    return [word for word in rows[0]["overrides"] if all(word in row["overrides"] for row in rows)]


def swept_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that points give different values, in the order in which they are first named."""
    shared = common_overrides(rows)
    if len(rows) < 2:
        return []
    keys = (_key(word) for row in rows for word in row["overrides"] if word not in shared)
    return list(dict.fromkeys(keys))


def swept_values(row: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """A point's value for each of these keys; empty where it leaves the config's own."""
    given = {_key(word): word.partition("=")[2] if "=" in word else "deleted" for word in row["overrides"]}
    return [given.get(key, "") for key in keys]


def best_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The point of highest throughput, the first of equals; None where no point has a plan."""
    done = [row for row in rows if row["error"] is None]
    return max(done, key=lambda row: row["throughput_items_per_s"], default=None)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated values, a line a point, a column a swept key: seconds, items a second, shares."""
    keys, text = swept_keys(rows), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["job", *keys, *VALUES])
    for row in rows:
        writer.writerow([row["job"], *swept_values(row, keys), *(row.get(name) for name in VALUES)])
    return text.getvalue()


def table_parts(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table | Text]:
    """One line a point in the order of the sweep, a column a swept key; then why points failed, and the best."""
    keys, best = swept_keys(rows), best_row(rows)
    shared = common_overrides(rows) if len(rows) > 1 else rows[0]["overrides"]
    words = ["sweep", *(["of", *shared] if shared else []), *(["over", ", ".join(keys)] if keys else [])]
    table = Table(title=Text(" ".join(words)), title_justify="left")  # Text: brackets are not markup
    table.add_column("job", justify="right", no_wrap=True)
    for key in keys:
        table.add_column(Text(key), overflow="fold")
    for name in FIGURES:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        values = [Text(value) for value in swept_values(row, keys)]
        mark = BEST if row is best else ""
        table.add_row(str(row["job"]), *values, *_figures(row), mark, style="bold" if mark else None)
    yield table
    for row in rows:
        if row["error"] is not None:
            yield Text(f"job {row['job']}: {row['error']}")
    if best is not None:
        chosen = " ".join(best["overrides"])
        yield Text(f"best: job {best['job']} ({chosen}), {format_items_rate(best['throughput_items_per_s'])}: "
                   f"{best['plan']}")  # fmt: skip


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row["error"] is not None:
        return ("no plan", "", "", "")
    return (
        format_items_rate(row["throughput_items_per_s"]),
        format_time(row["latency_s"]),
        f"{row['memory_headroom']:.0%}",
        str(row["hosts"]),
    )


def _key(word: str) -> str:
    """`microbatch` of `microbatch=4`, `++microbatch=4` and `~microbatch`."""
    return word.partition("=")[0].lstrip("+~")
