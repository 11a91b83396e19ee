"""Freed memory stays with the process: a computation that repeats causes no page faults after its first rounds."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys, threading
from edgelaunch.allocator import keep_freed_memory, use_one_arena

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def rounds():
    for _ in range(5):
        block = libc.malloc(40 << 20)  # more than glibc keeps by default
        libc.memset(block, 1, 40 << 20)
        libc.free(block)

def body():
    if sys.argv[1] == "keep":
        assert keep_freed_memory()
    rounds()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    rounds()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1] == "keep":
    assert use_one_arena()
thread = threading.Thread(target=body)
thread.start()
thread.join()
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is tuned")
def test_a_computation_that_repeats_causes_no_page_faults() -> None:
    assert faults("keep") < 200
    assert faults("default") > 20_000
