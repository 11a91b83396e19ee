"""What keeps the daily checks true: hooks, workflows, issue templates and make targets name what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_hooks_need_no_network() -> None:
    repos = load(".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = {hook["id"]: hook for hook in repos[0]["hooks"]}
    assert set(hooks) == {"ruff", "ruff-format", "clang-format", "mypy"}
    assert {hook["language"] for hook in hooks.values()} == {"system"}
    for hook in hooks.values():
        program, *words = hook["entry"].split()
        assert program.startswith(".venv/bin/") or (program == "make" and words[-1] in TARGETS)


def test_pull_requests_are_checked() -> None:
    workflow = load(".github/workflows/ci.yml")
    assert "pull_request" in workflow[True]  # YAML reads the key `on` as true
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = {word for run in runs for word in re.findall(r"\bmake ([a-z-]+)", run)}
    assert {"check", "test", "coverage"} <= called <= TARGETS
    versions = {str(version) for version in workflow["jobs"]["check"]["strategy"]["matrix"]["python"]}
    declared = set(re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    assert versions <= declared
    assert {min(declared, key=minor), max(declared, key=minor)} <= versions


def minor(version: str) -> int:
    return int(version.partition(".")[2])


def test_issue_templates_are_forms() -> None:
    for path in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem == "config":
            assert form["blank_issues_enabled"] is True
            continue
        assert form["name"], path
        assert form["description"], path
        ids = [item["id"] for item in form["body"]]
        assert len(ids) == len(set(ids)), path


def test_documents_name_targets_that_there_are() -> None:
    for name in ("CONTRIBUTING.md", "README.md", "docs/architecture.md", ".github/pull_request_template.md"):
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE):
            assert target in TARGETS, (name, target)
