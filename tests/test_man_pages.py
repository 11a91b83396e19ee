"""The manual pages: those that the parsers make, rendered without a warning, and installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompile.commands.plan_command import make_parser
from edgelaunch.request.parsers import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "man").glob("*.1"))
INSTALLED = Path(sys.prefix) / "share" / "man" / "man1"


def rendered(page: Path) -> str:
    """As `man` shows it, without bold and underlined letters."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        [groff, "-man", "-ww", "-Tascii", "-P-c", "-P-b", "-P-u", page], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), page
    return done.stdout


@pytest.mark.slow
def test_the_pages_are_the_parsers() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "man_pages.py", "--check"], timeout=120)
    assert done.returncode == 0, "make reference brings docs/man up to date"


def test_every_command_and_subcommand_has_one() -> None:
    programs = ["edgecompile", "edgelaunch", "edgeplan", "edgeprofile", "edgesched"]
    inner = make_parser()._subparsers
    assert inner is not None
    plans = inner._group_actions[0].choices
    assert plans is not None
    wanted = [*programs, *(f"edgelaunch-{name}" for name in COMMANDS), *(f"edgeplan-{name}" for name in plans)]
    assert {page.stem for page in PAGES} == set(wanted)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_it_renders_without_a_warning(page: Path) -> None:
    text = rendered(page)
    words = " ".join(text.split())
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
        assert f"\n{heading}\n" in text
    assert f" NAME {page.stem} - " in words


def test_texts_are_whole() -> None:
    """Also where a line begins with what roff takes for a request."""
    text = " ".join(rendered(ROOT / "docs" / "man" / "edgelaunch.1").split())
    assert ".npy .npz .safetensors .txt .jsonl .tsv, an image, a folder of images" in text
    assert "--log-level LEVEL debug, info, warning or error" in text
    keys = " ".join(rendered(ROOT / "docs" / "man" / "edgecompile.1").split())
    assert "runtime.detect=" in keys
    assert "--supervisor-fd" not in text


def test_they_are_installed() -> None:
    if not (INSTALLED / "edgelaunch.1").exists() and not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("installed without data files")
    assert [path.name for path in PAGES if not (INSTALLED / path.name).exists()] == []
