"""UserError: an error that the user can fix; every command prints it as one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "choices", "invalid_value", "nearest", "require"]

MOST_NEAR = 3
LEAST_LIKE, AS_LIKE = 0.65, 0.1
"""How like a name must be, of 1, and how much less than the likeliest one."""


class UserError(ValueError):
    """An error in a config, file or cluster that the user can fix: says what, where, why and what to do.

    Anything else that is raised is a bug of this project and keeps its traceback. As text it is one line,
    `KEY: PROBLEM: FIX`; programs read the attributes and never the text.

    Args:
        problem: what is wrong; the whole line, where neither of the others is given.
        key: where: a config's key, a file, an option.
        fix: what to do, or what is allowed.
    """

    def __init__(self, problem: str, *, key: str | None = None, fix: str | None = None) -> None:
        super().__init__(": ".join(part for part in (key, problem, fix) if part))
        self.problem, self.key, self.fix = problem, key, fix
        self.what = ": ".join(part for part in (key, problem) if part)
        """The line without what to do."""


def invalid_value(value: object, key: str, expected: str) -> UserError:
    """The error of a value that is not allowed: `invalid value 0 for microbatch: expected 1 or more`."""
    error = UserError(f"invalid value {value!r} for {key}", fix=f"expected {expected}")
    error.key = key
    return error


def require(holds: bool, where: str, key: str, value: object, allowed: str) -> None:
    """Raises UserError where a rule of a file does not hold: `FILE: invalid value 0 for KEY: expected 1 or more`."""
    if not holds:
        raise UserError(f"{where}: invalid value {value!r} for {key}: expected {allowed}")


def choices(names: Iterable[object], given: object = None) -> str:
    """The allowed names, sorted, for the end of a message, with those that `given` is nearly."""
    texts = sorted(str(name) for name in names)
    near = nearest(given, texts)
    return ", ".join(texts) + (f" (did you mean {' or '.join(near)}?)" if near else "")


def nearest(given: object, names: Iterable[str]) -> list[str]:
    """What the user may have meant by `given`, the likeliest first: typing errors, then names that it begins."""
    if not isinstance(given, str) or not given:
        return []
    by_form: dict[str, str] = {}
    for name in names:
        by_form.setdefault(_form(name), name)
    wanted = _form(given)
    found = difflib.get_close_matches(wanted, by_form, n=MOST_NEAR, cutoff=LEAST_LIKE)
    likeness = [difflib.SequenceMatcher(None, form, wanted).ratio() for form in found]
    found = [form for form, ratio in zip(found, likeness, strict=True) if ratio >= likeness[0] - AS_LIKE]
    if not found and len(wanted) >= 3:
        found = sorted(form for form in by_form if form.startswith(wanted))[:MOST_NEAR]
    return [by_form[form] for form in found if by_form[form] != given]


def _form(name: str) -> str:
    """Without what people mix up: capitals, leading dashes, - for _."""
    return name.lower().lstrip("-").replace("-", "_")
