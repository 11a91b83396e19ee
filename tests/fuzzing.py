"""Damaged and hostile bytes for the tests of readers."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from edgecompile.contract.errors import UserError

__all__ = ["HOSTILE", "mutations", "num_refused"]

HOSTILE = (
    b"", b"\0", b"\xff" * 64, b"{", b"[" * 5000, b"{" * 5000, b'{"a":' * 3000, b"&a [*a, *a]",
    b"!!python/object/apply:os.system [touch pwned]",
    b"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c]\ne: [*d,*d,*d,*d]\n",
    b"version: 1\nstages: 5\n", b"1e999999", b"-" * 10000, b"\xef\xbb\xbf", b"PK\x03\x04" + b"\0" * 60,
    b"\x93NUMPY\x01\x00\xff\xff", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"GIF89a\xff\xff\xff\xff",
    b"\xff\xd8\xff\xe0", (1 << 62).to_bytes(8, "little") + b"{}", pickle.dumps({"a": [1, 2]}), b"a: 1\n" * 3000,
    "\u202e\u0000".encode(), b"NaN", b"null", b"5", b"[]",
)  # fmt: skip
INSERTED = (b"-1", b"99999999999999999999", b"nan", b"../", b'"', b"\n", b": ", b"\0", b"[]")


def mutations(seed: bytes, count: int) -> Iterator[bytes]:
    """The hostile ones first, then `seed` with bytes changed, cut out, repeated, swapped or put in."""
    yield from HOSTILE
    rng = random.Random(len(seed))
    for _ in range(count - len(HOSTILE)):
        data = bytearray(seed)
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
            kind = rng.randrange(6)
            if kind == 0 and data:
                data[min(at, len(data) - 1)] = rng.randrange(256)
            elif kind == 1:
                del data[at : min(to, at + 40)]
            elif kind == 2:
                data[at:at] = data[at : at + 30] * rng.randrange(1, 4)
            elif kind == 3:
                del data[at:]
            elif kind == 4:
                data[at:at] = rng.choice(INSERTED)
            else:
                data[at:at] = rng.choice(HOSTILE)[:200]
        yield bytes(data)


def num_refused(seed: bytes, count: int, path: Path, read: Callable[[Path], object]) -> int:
    """How many of the mutations end in a UserError; the others work.

    Raises:
        AssertionError: one does neither; names the file that it is kept as.
    """
    refused = 0
    for number, data in enumerate(mutations(seed, count)):
        path.write_bytes(data)
        try:
            read(path)
        except UserError:
            refused += 1
        except Exception as error:
            kept = path.with_name(f"kept-{number}")
            kept.write_bytes(data)
            raise AssertionError(f"{number}, kept as {kept}: {type(error).__name__}: {error}") from error
    return refused
