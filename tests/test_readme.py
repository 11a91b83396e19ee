"""Every command in the README runs, on a smaller model; its options compose; its Python and its YAML work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompile.commands.compile_command import compose

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SMALLER = {
    r"model=\w+": "model=vit_digits",
    r"^edgeprofile .*": r"\g<0> profile.rounds=1 profile.microbatches=[1]",
    r"--unit \S+": "--unit vit.layers.3.mlp.fc1",
    "microbatch=1,2,4,8,16 wire=fp32,int8": "microbatch=1,8 wire=fp32,int8",
}
"""What stands in a command's place so that it ends soon."""
ELSEWHERE = {
    "make demo": "its commands: tests/test_end_to_end.py",
    "python3 -m venv .venv": "every test runs in such an environment",
    "pip install torch": "the same",
    "pip install '.[compile]'": "tests/test_extras.py",
    "sudo edgelaunch outputs/plan.yaml --emulate": "tests/launch/emulation/test_emulate_root.py",
    "edgelaunch outputs/plan.yaml": "on each board: tests/launch/pipeline/test_launch_runs.py with --rank and --master",
}
"""Why a command is not run here."""
BEFORE = {
    "edgelaunch outputs/plan.yaml --local --verify": "edgecompile model=vit_digits hosts.count=2",
    "edgeplan explain outputs/plan.yaml": "edgecompile model=vit_digits devices=jetson_cluster"
    " && edgelaunch outputs/plan.yaml --local --items 8",
    "edgeplan diff": "cp outputs/plan.yaml before.yaml && cp outputs/plan.yaml after.yaml",
}
"""What a reader has by then."""


def commands() -> list[str]:
    lines = [line for kind, text in BLOCK.findall(README) if kind == "sh" for line in text.splitlines()]
    return [line.partition(" # ")[0].strip() for line in lines if line.strip()]


def smaller(text: str) -> str:
    for pattern, other in SMALLER.items():
        text = re.sub(pattern, other, text)
    return text


def write_files(folder: Path) -> None:
    """The YAML files that the README shows, each with its path in its first line."""
    for kind, text in BLOCK.findall(README):
        if kind == "yaml" and (path := re.match(r"# (\S+\.yaml)", text)):
            (folder / path[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / path[1]).write_text(text)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_runs(tmp_path: Path) -> None:
    write_files(tmp_path)
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environ.pop("PYTHONPATH", None)
    found, waiting = commands(), dict(BEFORE)
    assert len(found) > 15
    for command in found:
        if any(command == key or command.startswith(f"{key} &&") for key in ELSEWHERE):
            continue
        due = [key for key in waiting if command.startswith(key)]
        before = " && ".join(["true", *(waiting.pop(key) for key in due)])
        done = subprocess.run(["bash", "-e", "-c", f"{smaller(before)} && {smaller(command)}"], capture_output=True,
                              text=True, cwd=tmp_path, env=environ, timeout=240)  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert not waiting, "prepared for commands that the README no longer has"


def options() -> list[list[str]]:
    """What stands in the right column of the table of options as overrides, alternatives one by one."""
    table = README[README.index("| to | write |") :].split("\n\n")[0]
    found = []
    for text in re.findall(r"`([^`]+)`", table.replace(r"\|", "|")):
        full = text.replace("...", "schedule.constraints.", 1) if text.startswith("...") else text
        if "..." in full or full.startswith("-") or "=" not in full:
            continue
        words = [full] if "{" in full and "'" not in full else shlex.split(full)
        key, _, value = words[-1].partition("=")
        alternatives = [value] if value.startswith(("[", "{")) else value.split("|")
        found += [[*words[:-1], f"{key}={item}"] for item in alternatives]
    return found


ALSO = {
    "wire.per_cut": "schedule=even", "hosts.members.pi5-1": "devices=raspberry_pi_cluster",
    "schedule.objective=t": "model=smollm2_135m", "schedule.objective=first": "model=smollm2_135m",
}  # fmt: skip
"""What an option stands beside."""


@pytest.mark.parametrize("words", options(), ids=" ".join)
def test_the_options_of_the_table_compose(words: list[str]) -> None:
    also = [text for key, text in ALSO.items() if words[0].startswith(key)]
    compose([*also, *words])


def test_the_table_has_options() -> None:
    assert len(options()) > 40


@pytest.mark.slow
def test_the_python_of_the_readme(tmp_path: Path) -> None:
    code = "".join(text for kind, text in BLOCK.findall(README) if kind == "python")
    assert "edgelaunch.Pipeline" in code
    script = tmp_path / "application.py"
    script.write_text(
        "import numpy as np\nitems = [np.zeros((1, 8, 8), np.float32)] * 3\n"
        + code.replace("        ...\n", "        print(sorted(result) if isinstance(result, dict) else result.shape)\n")
    )
    command = [Path(sys.executable).with_name("edgecompile"), "model=vit_digits", "hosts.count=2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=240)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
