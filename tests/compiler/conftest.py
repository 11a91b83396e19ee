"""Fixtures of the compiler's tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compiler_helpers import Command, Compile

from edgecompile import cli
from edgecompile.cli import compose
from edgecompile.console import steps
from edgecompile.plan import Plan


@pytest.fixture
def compile_here(tmp_path: Path) -> Compile:
    """Compiles these overrides into the test's own folder and returns the plan."""

    def run(*overrides: str) -> Plan:
        from edgecompile.pipeline import compile_model

        conf = compose([*overrides, f"output_dir={tmp_path / 'outputs'}"])
        return compile_model(conf, steps)

    return run


@pytest.fixture
def main_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """edgecompile's main() in this process and the test's own folder, where the process itself is not the matter."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["edgecompile", *words])
        for mark in ("HYDRA_FULL_ERROR", "EDGECOMPILE_SWEEP", "EDGECOMPILE_SWEEP_DIR"):
            monkeypatch.setenv(mark, "")  # so that the environment is restored
        capsys.readouterr()
        code = cli.main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, printed.out, printed.err)

    return run
