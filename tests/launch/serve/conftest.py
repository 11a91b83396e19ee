"""Services that several tests use, one process a session each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import launch_plans
import pytest
import served
from served import Served


@pytest.fixture(scope="session")
def floats_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Of a plan of its own: other tests look for ranks of theirs."""
    plan = launch_plans.floats(tmp_path_factory.mktemp("service"))
    with Served(plan.path, "--max-body", 100_000, "--max-queue", 64) as service:
        yield service


@pytest.fixture(scope="session")
def image_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(served.image_plan(tmp_path_factory.mktemp("images")).path) as service:
        yield service


@pytest.fixture(scope="session")
def embedding_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(served.embedding_plan(tmp_path_factory.mktemp("embeddings")).path) as service:
        yield service


@pytest.fixture(scope="session")
def text_service(text_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("text-service") / "plan"
    shutil.copytree(text_plan.parent, folder)
    with Served(folder / text_plan.name, "--max-queue", 16) as service:
        yield service
