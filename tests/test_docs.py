"""Every command in the documents runs, and prints what stands under it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps(document: Path) -> list[tuple[str, str]]:
    """Commands with what they are to print."""
    found: list[tuple[str, str]] = []
    for kind, text in BLOCK.findall(document.read_text()):
        if kind == "sh":
            found.append((text, ""))
        elif kind == "text" and found:
            found[-1] = (found[-1][0], found[-1][1] + text)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["tutorial.md", "howto.md"])
def test_what_the_document_says_is_so(name: str, tmp_path: Path) -> None:
    environ = {key: value for key, value in os.environ.items() if key not in ("EDGELAUNCH_SECRET", "PYTHONPATH")}
    environ |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "140",
    }
    commands = steps(ROOT / "docs" / name)
    assert len(commands) > 3
    for command, printed in commands:
        done = subprocess.run(["bash", "-e", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=environ,
                              timeout=300)  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{said}"
        for line in printed.splitlines():
            wanted = ".*".join(re.escape(part.strip()) for part in line.split("..."))
            assert re.search(wanted, said), f"{command}\nhas no line {line!r}\n{said}"


def test_links_between_documents_lead_somewhere() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_reference_is_the_schemas() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "reference.py", "--check"], timeout=60)
    assert done.returncode == 0, "make reference brings docs/reference.md up to date"


def test_the_deployments_files_are_whole() -> None:
    import yaml

    playbook = yaml.safe_load((ROOT / "launch" / "deploy" / "edgelaunch.yml").read_text())
    names = [task["name"] for task in playbook[0]["tasks"]]
    assert len(names) == len(set(names))
    unit = (ROOT / "launch" / "deploy" / "edgelaunch.service").read_text()
    assert re.search(r"^ExecStart=/opt/edgelaunch/bin/edgelaunch .*--secret-file", unit, re.MULTILINE)
    agent = (ROOT / "launch" / "deploy" / "edgelaunch-agent.service").read_text()
    assert re.search(r"^ExecStart=/opt/edgelaunch/bin/edgelaunch agent --secret-file", agent, re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert "ubuntu-24.04-arm" in workflow["jobs"]["wheels"]["strategy"]["matrix"]["runner"]


def test_the_rooms_of_the_architecture_are_those_of_the_structure_test() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "rooms.py", "--check"], timeout=60)
    assert done.returncode == 0, "make reference brings docs/architecture.md up to date"


def test_what_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    names = set(re.findall(r"`([\w./-]+/|[\w./-]+\.(?:py|yaml|toml|hpp|cpp))`", text)) - {"plan.yaml"}
    assert len(names) > 30
    for name in sorted(name for name in names if "NAME" not in name):
        trees = (
            ROOT / tree for tree in ("edgecompile", "launch", "native_sched", "native_text", "tests", "benchmarks")
        )
        assert (ROOT / name).exists() or any(any(tree.glob(f"**/{name}")) for tree in trees), name
