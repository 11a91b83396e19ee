"""Option parsing shared by all commands: one-line errors with near matches, and shell completion."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast

from edgecompile.contract.errors import UserError, choices, nearest
from edgecompile.terminal.logs import LogLevel

__all__ = [
    "SHELLS",
    "Parser",
    "add_completion",
    "add_log_options",
    "add_output_options",
    "completion_script",
    "nearest",
]

SHELLS = ("bash", "zsh")
_FILES = {"PLAN", "PATH", "FILE", "RUN", "A", "B"}
_FOLDERS = {"DIR"}
"""What a shell completes in the place of an option's value, by its metavar."""


class Parser(argparse.ArgumentParser):
    """argparse with our errors: a UserError that names the word, what there is, and what may have been meant."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Knows all: a subcommand's parser is asked by this method, and what it leaves over names the wrong options."""
        chosen, unknown = super().parse_known_args(args, namespace)
        if unknown:
            plural = "s" if len(unknown) > 1 else ""
            self.error(f"unrecognized argument{plural} {' '.join(unknown)}{self._meant(unknown)}")
        return chosen, unknown

    def _meant(self, unknown: Sequence[str]) -> str:
        known = [word for action in self._actions if action.help != argparse.SUPPRESS for word in action.option_strings]
        near = [name for word in unknown if word.startswith("-") for name in nearest(word.partition("=")[0], known)]
        return f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"invalid value {value!r}: expected one of "
                                         f"{choices(cast(Iterable[object], action.choices), value)}")  # fmt: skip


class _ShowCompletion(argparse.Action):
    """Prints the script and ends, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        print(completion_script(self.const() if self.const is not None else parser, values))
        parser.exit()


def add_completion(parser: argparse.ArgumentParser, whole: Callable[[], argparse.ArgumentParser] | None = None) -> None:
    """`whole`: makes the parser that is completed, where it is another one."""
    parser.add_argument("--completion", action=_ShowCompletion, const=whole, choices=SHELLS, metavar="SHELL",
                        help="print a shell completion script for this command: bash or zsh")  # fmt: skip


def add_output_options(parser: argparse.ArgumentParser, *, json: str = "one JSON object on standard output") -> None:
    """`--json` and `--quiet`, which every command has."""
    parser.add_argument("--json", action="store_true", help=f"for scripts: {json}")
    parser.add_argument("--quiet", action="store_true", help="only results and errors: no progress, no advice")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """`--log-level` and `--log-json`, of the commands that work for a while."""
    group = parser.add_argument_group("logs, on standard error")
    group.add_argument("--log-level", choices=[level.value for level in LogLevel], metavar="LEVEL",
                       help="debug, info, warning or error: each line with time and level")  # fmt: skip
    group.add_argument("--log-json", action="store_true",
                       help="each line a JSON object: time, level, event, message")  # fmt: skip


def completion_script(parser: argparse.ArgumentParser, shell: str, preamble: Mapping[str, str] | None = None) -> str:
    """What a shell reads to complete the parser's command. Raises UserError where shtab is not installed.

    `preamble`: functions, by shell, that complete what is not a word of the parser's.
    """
    try:
        import shtab
    except ImportError:
        raise UserError("--completion needs the package shtab: pip install shtab") from None
    _mark_files(parser, shtab.FILE, shtab.DIRECTORY)
    texts: Any = dict(preamble or {})  # which shtab takes, though its annotation does not say so
    script: str = shtab.complete(parser, shell, preamble=texts)
    if preamble:  # what is completed there is seldom a whole word
        script = script.replace("complete -o bashdefault ", "complete -o bashdefault -o nospace ")
    if any(isinstance(action, argparse._SubParsersAction) and action.metavar in _FILES for action in parser._actions):
        script = _with_files_beside_commands(script, parser.prog)
    return script.rstrip("\n")


def _with_files_beside_commands(script: str, prog: str) -> str:
    """A file may stand where a command does, and the options of no command behind it: what shtab does not know."""
    name = f"_shtab_{prog}"
    describe = f"_describe '{prog} commands' _commands"
    rest = f"*) _arguments -s ${{(@){name}_options:#(: :*|\\*:::*)}} '*:file:_files' ;;"
    for before, after in (
        (f"\n{name}_pos_0_choices=", f"\n{name}_pos_0_COMPGEN=_shtab_compgen_files\n{name}_pos_0_choices="),
        (f"  {describe}\n", f"  {describe}\n  _files\n"),
        ("\n      esac\n  esac\n}\n", f"\n        {rest}\n      esac\n  esac\n}}\n"),
    ):
        script = script.replace(before, after, 1)
    return script


def _mark_files(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _mark_files(inner, file, folder)
        elif action.metavar in _FILES | _FOLDERS and not hasattr(action, "complete"):
            action.complete = folder if action.metavar in _FOLDERS else file  # type: ignore[attr-defined]
