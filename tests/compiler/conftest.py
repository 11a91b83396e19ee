"""Fixtures of the compiler's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from compiler_helpers import Compile

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
