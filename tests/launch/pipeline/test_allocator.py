"""Freed memory stays with the process: a computation that repeats causes no page faults after its first rounds."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from launch_plans import Written

from edgecompile.execution.allocator import VARIABLE

PROGRAM = """
import ctypes, resource, sys, threading
from edgecompile.execution.allocator import keep_freed_memory, use_one_arena

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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is tuned")
def test_a_computation_that_repeats_causes_no_page_faults() -> None:
    assert faults("keep") < 200
    assert faults("default") > 20_000


REFUSE_EXEC = """
import ctypes, struct, sys

# a seccomp filter: execve and execveat fail with EPERM (1), everything else is allowed
numbers = {"x86_64": (59, 322), "aarch64": (221, 281)}[sys.argv.pop(1)]
steps = [(0x20, 0, 0, 0), (0x15, 1, 0, numbers[0]), (0x15, 0, 1, numbers[1]), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
"""
RUN = "from edgelaunch.entry import main; sys.exit(main())"


def environment_of_a_user() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != VARIABLE and not name.startswith("MALLOC_")}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="seccomp by number")
def test_a_run_goes_on_where_exec_is_refused(two_stages: Written) -> None:
    command = [sys.executable, "-c", REFUSE_EXEC + RUN, platform.machine(), two_stages.path, "--local", "--verify"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment_of_a_user())
    assert done.returncode == 0, done.stderr
    assert "verified: 6 items" in done.stdout
    again = REFUSE_EXEC + "import os; os.execv(sys.executable, [sys.executable, '-V'])"
    done = subprocess.run([sys.executable, "-c", again, platform.machine()], capture_output=True, text=True, timeout=60)
    assert "PermissionError" in done.stderr


def test_an_environment_that_is_lost_on_the_way_is_asked_for_once(tmp_path: Path) -> None:
    """As a script that stands for Python, or glibc in a Python with capabilities, loses it."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho started >&2\nunset {VARIABLE}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    restart = "restart_with_heap_environment"
    code = (
        f"import os, sys; from edgecompile.execution.allocator import RESTARTED, {restart}; "
        f"sys.executable = {str(python)!r}; "
        f"{restart}(); assert RESTARTED not in os.environ; print('went on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env=environment_of_a_user())  # fmt: skip
    assert (done.stdout, done.stderr) == ("went on\n", "started\n" if platform.libc_ver()[0] == "glibc" else "")
