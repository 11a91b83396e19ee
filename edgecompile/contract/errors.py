"""UserError: an error that the user can fix; every command prints it as one line and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "choices", "nearest"]

MOST_NEAR = 3
LEAST_LIKE, AS_LIKE = 0.65, 0.1
"""How like a name must be, of 1, and how much less than the likeliest one."""


class UserError(ValueError):
    """An error in a config, file or cluster that the user can fix: says what, where, why and what to do.

    Anything else that is raised is a bug of this project and keeps its traceback.
    """


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
