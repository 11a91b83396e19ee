"""Command-line options of the Hydra commands, checked before Hydra parses them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from hydra._internal.utils import get_args_parser

from edgecompile import __version__
from edgecompile.contract.errors import UserError
from edgecompile.terminal.console import choose_output
from edgecompile.terminal.logs import LogForm, LogLevel, show_logs
from edgecompile.terminal.options import SHELLS, Parser, add_log_options, add_output_options, completion_script

__all__ = ["hydra_parser", "read_options"]

_OURS = ("--json", "--quiet", "--log-json")
_OURS_WITH_VALUE = "--log-level"
_OVERRIDES = {
    "bash": """
_{command}_overrides() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" before="" candidate
  local word="${{line##* }}"
  [[ "$COMP_WORDBREAKS" == *=* && "$word" == *=* ]] && before="${{word%=*}}="
  for candidate in $(compgen -W "$(COMP_LINE="{command} $word" {command} -sc query=bash 2>/dev/null)" -- "$word"); do
    echo "${{candidate#"$before"}}"
  done
}}
""",
    "zsh": """
_{command}_overrides() {{
  local -a candidates
  candidates=(${{=$(COMP_LINE="{command} ${{words[CURRENT]}}" {command} -sc query=bash 2>/dev/null)}})
  compadd -S '' -- $candidates
}}
""",
}
"""What overrides a word may become, Hydra says: the groups' options and the config's keys."""


def read_options(command: str) -> None:
    """Reads `sys.argv`, chooses how the command answers, and leaves there what is Hydra's.

    Raises:
        UserError: an option is unknown, or lacks its value.
        SystemExit: `--version` or `--completion` has been answered.
    """
    parser = _parser(command)
    words = _options_first(parser, sys.argv[1:])
    show_logs(LogForm(json="--log-json" in words))  # what is wrong with the words, too
    chosen = parser.parse_args(words)
    if chosen.completion is not None:
        print(_completion(hydra_parser(command), chosen.completion))
        raise SystemExit(0)
    wrong = [word for word in chosen.overrides if "=" not in word and not word.startswith("~")]
    if wrong and not chosen.shell_completion:
        raise UserError(f"{wrong[0]}: expected KEY=VALUE or an option: see {command} --help")
    if chosen.quiet and chosen.log_level is not None:
        raise UserError("--quiet leaves errors alone, and --log-level chooses lines: give one of them")
    level = LogLevel(chosen.log_level) if chosen.log_level is not None else None
    choose_output(json=chosen.json, quiet=chosen.quiet, log=LogForm(level=level, json=chosen.log_json))
    sys.argv[1:] = list(_of_hydra(words))


def _of_hydra(words: Sequence[str]) -> Iterator[str]:
    """Without the options that are ours, which may be shortened."""
    left = iter(words)
    for word in left:
        option, equals, _ = word.partition("=")
        if len(option) > len("--log-") and _OURS_WITH_VALUE.startswith(option):
            if not equals:
                next(left, None)
        elif not any(len(word) > 3 and ours.startswith(word) for ours in _OURS):
            yield word


def _options_first(parser: Parser, words: Sequence[str]) -> list[str]:
    """argparse takes overrides in one row only, and people put options anywhere among them."""
    values = {word: action.nargs is None for action in parser._actions for word in action.option_strings
              if action.nargs in (None, 0)}  # fmt: skip
    options: list[str] = []
    others: list[str] = []
    left = iter(words)
    for word in left:
        if word not in values:
            others.append(word)
            continue
        options.append(word)
        if values[word]:
            options += [value for value in [next(left, None)] if value is not None]
    return [*options, *others]


def hydra_parser(command: str) -> Parser:
    """For texts about the command: what it takes, but for what Hydra does by itself."""
    parser = _parser(command)
    for action in parser._actions:
        if action.dest in ("config_dir", "config_path"):
            action.metavar = "DIR"
        elif action.dest in ("shell_completion", "experimental_rerun"):
            action.help = argparse.SUPPRESS
        elif action.dest == "overrides":
            action.metavar = "KEY=VALUE"
    return parser


def _parser(command: str) -> Parser:
    parser = Parser(prog=command, parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--version", action="version", version=f"{command} {__version__}")
    add_output_options(parser)
    add_log_options(parser)
    parser.add_argument("--completion", choices=SHELLS, metavar="SHELL",
                        help="print a shell completion script for this command: bash or zsh")  # fmt: skip
    return parser


def _completion(parser: Parser, shell: str) -> str:
    name = f"_{parser.prog}_overrides"
    for action in parser._actions:
        if action.dest == "overrides":
            action.complete = dict.fromkeys(SHELLS, name)  # type: ignore[attr-defined]
    return completion_script(parser, shell, {key: text.format(command=parser.prog) for key, text in _OVERRIDES.items()})
