"""Which versions of edgecompile, torch and Python run one plan together: one rank of each, results verified.

    python benchmarks/mixed_versions.py 27ce560              # this installation, and the package as of that commit
    python benchmarks/mixed_versions.py --python PYTHON      # and the environment of another Python, such as one of
                                                             # make test-torch: build/venv-torch-2.14.1/bin/python

Each commit is built and installed into a folder of its own, beside which this environment's torch is used. Each
installation that can compile writes a plan, and each plan is run by each pair of installations, `--verify` included:
either all golden items agree, or both ranks end with one line that names both versions.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = ("model=vit_digits", "devices=local", "hosts.count=2", "microbatch=4")
DEADLINE_S = 180.0
ERROR = "edgelaunch: error: "


@dataclass(frozen=True)
class Installation:
    name: str
    python: str
    folder: Path | None
    """Of the package, before those of the environment; None: the environment's own."""

    def environ(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RANK", "WORLD_SIZE")}
        return kept | ({"PYTHONPATH": str(self.folder)} if self.folder is not None else {})

    def command(self, module: str, *words: object) -> list[str]:
        return [self.python, "-m", module, *map(str, words)]

    def run(self, *words: str) -> str:
        done = subprocess.run([self.python, *words], capture_output=True, text=True, env=self.environ(), cwd="/",
                              check=False)  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr}")
        return done.stdout.strip()

    def describe(self) -> str:
        return self.run("-c", "import platform, torch, edgelaunch; from edgelaunch.common.software import PROTOCOL; "
                        "print(f'edgecompile {edgelaunch.__version__} (protocol {PROTOCOL}), torch "
                        "{torch.__version__}, Python {platform.python_version()}')")  # fmt: skip


def installed(commit: str, folder: Path) -> Installation:
    """The package as of a commit, built and installed into a folder."""
    source, target = folder / f"source-{commit}", folder / f"site-{commit}"
    source.mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
        source,
    ]
    subprocess.run(words, check=True, cwd=folder)
    return Installation(commit, sys.executable, target)


def compiled(by: Installation, folder: Path) -> Path | None:
    """A plan that it writes; None where Hydra or transformers are not there, as on a board."""
    words = by.command("edgecompile.commands.compile_command", *MODEL, f"output_dir={folder}")
    done = subprocess.run(words, capture_output=True, text=True, env=by.environ(), cwd="/", timeout=600,
                          check=False)  # fmt: skip
    if done.returncode and "No module named" not in done.stderr and "is not installed" not in done.stderr:
        raise SystemExit(f"{by.name}: {done.stderr}")
    return folder / "plan.yaml" if done.returncode == 0 else None


def outcome(plan: Path, ranks: tuple[Installation, Installation]) -> str:
    """What came of the run, in words: verified, or what each rank ended with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = []
    for rank, by in enumerate(ranks):
        words = by.command("edgelaunch", plan, "--rank", rank, "--master", master, *(["--verify"] if not rank else []))
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                          env=by.environ(), cwd="/"))  # fmt: skip
    try:
        said = [process.communicate(timeout=DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if not any(process.returncode for process in processes):
        return next(line for line in said[0][0].splitlines() if line.startswith("verified"))
    lines = []
    for rank, (process, (_, err)) in enumerate(zip(processes, said, strict=True)):
        errors = [line.removeprefix(ERROR) for line in err.splitlines() if line.startswith(ERROR)]
        lines.append(f"rank {rank}: status {process.returncode}, {' | '.join(errors) or err.strip()[-300:]}")
    return "\n    ".join(["refused", *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", help="of this repository")
    parser.add_argument("--python", action="append", default=[], help="of an environment with edgecompile")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgebench-") as name:
        folder = Path(name)
        all_of_them = [Installation("this", sys.executable, None)]
        all_of_them += [installed(commit, folder) for commit in args.commits]
        all_of_them += [Installation(f"python-{number}", str(Path(path).absolute()), None)
                        for number, path in enumerate(args.python, 1)]  # fmt: skip
        for item in all_of_them:
            print(f"{item.name}: {item.describe()}", flush=True)
        for by in all_of_them:
            plan = compiled(by, folder / f"plan-{by.name}")
            if plan is None:
                continue
            for ranks in product(all_of_them, repeat=2):
                pair = f"plan of {by.name}, rank 0 of {ranks[0].name}, rank 1 of {ranks[1].name}"
                print(f"{pair}: {outcome(plan, ranks)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
