"""Writes docs/man: a manual page for each command and subcommand, from their parsers and the config's schema.

python tools/man_pages.py            # write them
python tools/man_pages.py --check    # exit status 1 where one is out of date
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from argparse_manpage.manpage import Manpage
from reference import classes, rows

from edgecompile.commands.hydra_options import hydra_parser
from edgecompile.commands.pipeedge_command import make_parser as sched_parser
from edgecompile.commands.plan_command import make_parser as plan_parser
from edgelaunch.request.parsers import COMMANDS, command_parser, run_parser

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "man"
MANUAL = "edgecompile manual"
SEE = ("edgecompile", "edgelaunch", "edgeplan", "edgeprofile", "edgesched")
SHORT = {
    "edgecompile": "compile one neural network into a pipeline over unequal devices",
    "edgelaunch": "run the ranks of a plan that edgecompile wrote",
    "edgeplan": "read, explain, simulate, compare and draw plans",
    "edgeprofile": "measure what a model's units take on this device",
    "edgesched": "schedule a model from PipeEdge's three files",
}
STATUS = """.TP
\\fB0\\fR
All is well.
.TP
\\fB2\\fR
An error that the user can do something about, in one line on standard error.
.TP
\\fB130\\fR
Interrupted by Ctrl-C.
.TP
\\fB141\\fR
Whoever read standard output has gone.
"""
LEFT = """.TP
\\fB143\\fR
A rank or an agent that was told to stop by SIGTERM or SIGHUP, and left.
"""
ENVIRONMENT = {
    "edgelaunch": (
        ("EDGELAUNCH_SECRET", "the secret that the ranks, or the boards, share; --secret-file names a file instead"),
        ("EDGELAUNCH_API_KEY", "of edgelaunch serve: the key that requests must have"),
        ("RANK", "which rank this is, where torchrun starts it"),
    ),
}
Page = tuple[str, str]


def release() -> tuple[str, str]:
    """The version, and its date in the changelog."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert found, "pyproject.toml has no version"
    version = found[1]
    found = re.search(rf"^## {re.escape(version)} - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert found, f"CHANGELOG.md has no section of {version} with a date"
    return version, found[1]


def roff(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{text}" if text.startswith((".", "'")) or not text else text


def entries(items: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    return "\n".join(f".TP\n\\fB{roff(name)}\\fR\n{roff(text)}" for name, text in items)


def page(parser: argparse.ArgumentParser, short: str, *sections: tuple[str, str], synopsis: str = "") -> Page:
    """The file's name and text; `synopsis`: what follows the options."""
    name = parser.prog.replace(" ", "-")
    parser.description = parser.description or f"{short[0].upper()}{short[1:]}."
    made = Manpage(parser)
    version, made.date = release()
    made.prog, made.source, made.manual, made.description = name, f"edgecompile {version}", MANUAL, short
    words = [word for action in parser._get_positional_actions() for word in [action.metavar or action.dest]]
    made.synopsis = [parser.prog, "[OPTION]...", *(synopsis.split() or map(str, words))]
    for heading, text in sections:
        made.add_section(heading, ">", text)
    program = parser.prog.partition(" ")[0]
    made.add_section("exit status", ">", STATUS + (LEFT if program == "edgelaunch" else ""))
    if program in ENVIRONMENT:
        made.add_section("environment", ">", entries(ENVIRONMENT[program]))
    see = [other for other in SEE if other != name]
    made.add_section("see also", ">", ",\n".join(f".BR {other} (1)" for other in see).replace("(1),", "(1) ,"))
    lines = str(made).replace(".SH COMMENTS", ".SH NOTES").splitlines()
    return f"{name}.1", "\n".join(_escaped(line) for line in lines if line.strip()) + "\n"


def _escaped(line: str) -> str:
    """argparse-manpage leaves a text alone that begins as a request of roff's does."""
    return f"\\&{line.rstrip()}" if re.match(r"\.(?![A-Z]{1,2}\b)|'", line) else line.rstrip()


def see_commands(program: str, names: Iterator[tuple[str, str]]) -> str:
    return entries((f"{program} {name}", f"{text} See {program}-{name}(1).") for name, text in names)


def hydra_pages() -> Iterator[Page]:
    keys = entries((f"{key}={default}" if default else key, said) for key, default, said in rows(classes(), "Conf", ""))
    for name in ("edgecompile", "edgeprofile"):
        overrides = (f"Options of groups are chosen as GROUP=OPTION, and keys set as KEY=VALUE; {name} --help lists "
                     "the groups and the config.")  # fmt: skip
        yield page(hydra_parser(name), SHORT[name], ("overrides", roff(overrides)), ("keys", keys),
                   synopsis="[KEY=VALUE]...")  # fmt: skip


def launch_pages() -> Iterator[Page]:
    what = ((name, description) for name, (_, description) in COMMANDS.items())
    yield page(run_parser(), SHORT["edgelaunch"], ("commands", see_commands("edgelaunch", what)))
    for name, (_, description) in COMMANDS.items():
        yield page(command_parser(name), description[0].lower() + description.partition(":")[0].rstrip(".")[1:])


def plan_pages() -> Iterator[Page]:
    parser = plan_parser()
    action = next(item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    helps = {item.dest: str(item.help) for item in action._choices_actions}
    parser._remove_action(action)
    for group in parser._action_groups:
        if action in group._group_actions:
            group._group_actions.remove(action)
    commands = see_commands("edgeplan", ((name, f"{text}.") for name, text in helps.items()))
    yield page(parser, SHORT["edgeplan"], ("commands", commands), synopsis="COMMAND ...")
    for name, inner in action.choices.items():
        yield page(inner, helps[name].partition(":")[0])


def pages() -> dict[str, str]:
    os.environ["COLUMNS"] = "100"  # argparse folds its texts at the terminal's width
    made = [*hydra_pages(), *launch_pages(), *plan_pages(), page(sched_parser(), SHORT["edgesched"])]
    return dict(made)


def main() -> int:
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in TARGET.glob("*.1")}
    if "--check" in sys.argv[1:]:
        return int(wanted != there)
    TARGET.mkdir(exist_ok=True)
    for name in there.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name, text in wanted.items():
        (TARGET / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
