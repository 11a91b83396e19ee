"""Wheels as they are released: built for each ABI, tagged manylinux, and tried with each Python without torch.

    python tools/wheels.py build DIST [PYTHON...]
    python tools/wheels.py try DIST [PYTHON...]

`build` writes one wheel for each Python before 3.12, and one for the stable ABI, into the folder DIST; auditwheel and
patchelf must be installed. `try` installs what fits into an environment of its own, with all that it needs but torch,
and runs there what needs none: `import edgecompile`, edgeplan, edgesched and their tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
TESTS = ("tests/scheduler", "tests/explore")
TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
TRIES = (
    (
        "python",
        "-I",
        "-c",
        "import edgecompile, edgelaunch, sys; print(edgecompile.__version__, sys.version.split()[0])",
    ),
    (
        "python",
        "-I",
        "-c",
        "from edgecompile import _native_sched, _native_text;"
        "assert _native_sched.ProblemSpec() and _native_text.Rows([])",
    ),
    ("edgeplan", "--version"),
    ("edgesched", "--version"),
    ("edgelaunch", "--version"),
)


def run(*words: str | Path, **environ: str) -> None:
    print("+", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True, cwd=ROOT, env={**os.environ, **environ})


def environment(python: str, folder: Path) -> Path:
    """A new environment of this Python; its folder of programs."""
    run(python, "-m", "venv", folder)
    return folder / "bin"


def build(python: str, dist: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        programs = environment(python, Path(scratch) / "venv")
        run(programs / "python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", scratch, ROOT)
        (wheel,) = Path(scratch).glob("*.whl")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # patchelf is there
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", dist, wheel, PATH=path)


def try_it(python: str, dist: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        programs = environment(python, Path(scratch) / "venv")
        listing = subprocess.run([programs / "python", ROOT / "tools" / "requirements.py", "--rank"],
                                capture_output=True, text=True, encoding="utf-8", check=True)  # fmt: skip
        pip = (programs / "python", "-m", "pip", "install", "-q")
        run(*pip, *(name for name in listing.stdout.split() if not name.startswith("torch")), *TEST_TOOLS)
        run(*pip, "--no-deps", "--no-index", "--find-links", dist, "edgecompile")
        for program, *words in TRIES:
            run(programs / program, *words)
        run(programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)


def main(what: str, dist: str, *pythons: str) -> None:
    """`PYTHONS` where none is named; `build` leaves out those that the stable ABI's wheel serves."""
    for python in pythons or PYTHONS:
        if what == "try":
            try_it(python, Path(dist).resolve())
        elif not (what == "build" and python == "python3.13"):
            build(python, Path(dist).resolve())


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("build", "try"):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (OSError, subprocess.CalledProcessError) as failed:
        sys.exit(f"wheels: {failed}: with pyenv, PYENV_VERSION=3.10.13:3.11.7 makes python3.10 and python3.11 be found")
