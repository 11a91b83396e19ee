"""The native module: its typed stub is up to date, it frees the GIL, and importing the contract does not load it."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import edgecompile
from edgecompile.planning.native_bridge import native_module, spec_of
from edgecompile.planning.problem import HostLinks, Kind, Problem, SchedHost


def large_problem() -> Problem:
    """About a second of work: hosts that all differ."""
    rng = random.Random(0)
    units, hosts = 400, 14
    return Problem(
        kinds=tuple(
            Kind(name=f"kind{k}", unit_s=tuple(rng.uniform(1e-3, 1e-2) for _ in range(units))) for k in range(hosts)
        ),
        hosts=tuple(
            SchedHost(name=f"host{k}", kind=k, memory_bytes=rng.randint(60, 90), bandwidth_bytes_per_s=1e4)
            for k in range(hosts)
        ),
        links=HostLinks(),
        cut_bytes=tuple(rng.randint(1, 100) for _ in range(units + 1)),
        weight_bytes=tuple(rng.randint(0, 2) for _ in range(units)),
        activation_bytes=(1,) * units,
        entry_bytes=tuple(rng.randint(0, 3) for _ in range(units + 1)),
        exit_bytes=(0,) * (units + 1),
    )


def test_stub_names_what_the_module_has() -> None:
    """The stub is nanobind's own, formatted by ruff; regenerate it with nanobind.stubgen when this fails."""
    stub = (Path(edgecompile.__file__).parent / "_native_sched.pyi").read_text()
    module = native_module()
    for name in (name for name in dir(module) if not name.startswith("_")):
        thing = getattr(module, name)
        assert f"class {name}" in stub or f"def {name}(" in stub, name
        if isinstance(thing, type) and hasattr(thing, "__init__"):
            for member in (member for member in vars(thing) if not member.startswith("_")):
                assert f"def {member}(" in stub or f"    {member} = " in stub, f"{name}.{member}"


def test_other_threads_run_while_it_solves() -> None:
    spec = spec_of(large_problem())
    solving = threading.Thread(target=native_module().solve, args=(spec,))
    solving.start()
    turns = 0
    while solving.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 3


def test_contract_loads_neither_torch_nor_the_native_module() -> None:
    code = "import sys, edgecompile.planning.problem; print({'torch', 'edgecompile._native_sched'} & set(sys.modules))"
    root = Path(edgecompile.__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "set()"
