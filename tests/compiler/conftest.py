"""Fixtures of the compiler's tests."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from compiler_helpers import Command, Compile, compile_into

from edgecompile.commands import compile_command as cli


@pytest.fixture
def compile_here(tmp_path: Path) -> Compile:
    """Compiles these overrides into the test's own folder and returns the plan."""

    return functools.partial(compile_into, tmp_path / "outputs")


@pytest.fixture
def main_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """edgecompile's main() in this process and the test's own folder, where the process itself is not the matter."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["edgecompile", *words])
        for mark in ("HYDRA_FULL_ERROR", "EDGECOMPILE_OUTPUT", "EDGECOMPILE_SWEEP", "EDGECOMPILE_SWEEP_DIR"):
            monkeypatch.setenv(mark, "")  # so that the environment is restored
        capsys.readouterr()
        code = cli.main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, printed.out, printed.err)

    return run
