"""File names and texts beyond ASCII, in a locale that knows ASCII alone and with Python's UTF-8 mode off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompile.commands.hydra_app import _quoted

pytestmark = pytest.mark.slow

ASCII_ALONE = {"LC_ALL": "C", "PYTHONUTF8": "0"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["edgeplan", "show", "größe/plän.yaml"], "größe/plän.yaml: no such plan"),
        (["edgelaunch", "größe/plän.yaml"], "größe/plän.yaml: no such plan"),
        (["edgecompile", "model=größe"], "größe"),
    ],
)
def test_commands_name_a_file_as_it_is_called(words: list[str], told: str, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name(words[0])
    done = subprocess.run([script, *words[1:]], capture_output=True, timeout=120, cwd=tmp_path,
                          env={**os.environ, **ASCII_ALONE})  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert told in done.stderr.decode("utf-8")
    assert len(done.stderr.splitlines()) == 1


def test_overrides_beyond_ascii_are_quoted_for_hydra() -> None:
    assert _quoted("output_dir=/tmp/größe") == 'output_dir="/tmp/größe"'
    for word in ("output_dir=/tmp/plain", "a=[ä,ö]", "a='ä'", "--config-dir=ä", "ä=ä", "ä"):
        assert _quoted(word) == word
