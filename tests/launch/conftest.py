"""Plans that several tests use, written once a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import launch_plans
import pytest


@pytest.fixture(scope="session")
def two_stages(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    """One float input, two stages that double it."""
    return launch_plans.floats(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="session")
def one_stage(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    return launch_plans.floats(tmp_path_factory.mktemp("one"), num_stages=1)


@pytest.fixture(scope="session")
def three_stages(tmp_path_factory: pytest.TempPathFactory) -> launch_plans.Written:
    """Two inputs, four outputs, four dtypes, and a tensor that passes through."""
    return launch_plans.three_stages(tmp_path_factory.mktemp("three"))


@pytest.fixture
def copied(two_stages: launch_plans.Written, tmp_path: Path) -> launch_plans.Written:
    """A two-stage plan that a test may damage."""
    folder = tmp_path / "plan"
    shutil.copytree(two_stages.path.parent, folder)
    return launch_plans.Written(folder / "plan.yaml", two_stages.plan, two_stages.parts, two_stages.microbatch)
