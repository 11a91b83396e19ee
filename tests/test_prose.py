"""The words of messages, help and documents: those of the glossary, and none that were taken out for good."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

INSTEAD = {
    "does not do": "invalid value X for KEY: expected Y",
    "do not do": "invalid value X for KEY: expected Y",
    ": it must be": ": expected",
    ": it must have": ": expected",
    "cannot be borne": "the plan cannot continue without HOST",
    "gone on with": "resumed",
    "goes on with": "continues with",
    "goes on without": "continues without",
    "goes on after": "resumes after",
    "goes on from": "resumes from",
    "goes on where": "resumes where",
    "go on from": "resume",
    "go on with": "continue with",
    "go on without": "continue without",
    "begins anew": "starts over",
    "anew": "again",
    "who may not": "without the secret",
    "heeded": "ignored",
    "what came of": "the results of",
    "what comes of": "the results of",
    "what became of": "what happened to",
    "what becomes of": "what happens to",
    "is to be mended": "is to be fixed",
    "can mend": "can fix",
    "mend": "fix, repair",
    "mended": "fixed",
    "too few bytes": "short by",
    "too few: add": "short by",
    "by hand's": "manual",
    "would write over": "would overwrite",
    "be written over": "be overwritten",
    "turned away": "rejected",
    "taken for lost": "considered lost",
    "does not answer any more": "no longer answers",
    "carries again": "is up again",
    "no way to": "cannot reach",
    "stands here twice": "duplicate key",
    "starts it again": "restarting it",
    "without end": "without bound",
    "somebody": "another process, a user",
    "nobody listens": "nothing listens",
    "farewell": "leave",
    "has no use for": "does not use",
    "is no text": "is not text",
    "is no number": "is not a number",
    "this very": "this",
}
"""What must not come back, and what to write. White space is any; words are whole."""
IS_NO = re.compile(r"(?<!there )\b(?:is|are) no (?!longer\b|larger\b|more\b|better\b|plan's\b)\w[\w-]*", re.IGNORECASE)
"""`is no plan` for `is not a plan`; `there is no plan` is right."""
TERMS = {
    *(
        "unit",
        "cut",
        "boundary",
        "stage",
        "chain",
        "item",
        "microbatch",
        "golden items",
        "wire format",
        "shard",
        "prepack",
    ),
    *("rank", "host", "data host", "device", "link", "plan", "profile", "schedule", "fallback", "certificate"),
    *("period", "bottleneck", "throughput", "latency", "epoch", "store", "secret", "heartbeat", "in flight"),
}


def texts() -> Iterator[tuple[Path, str]]:
    """Everything that a user or a developer reads in prose, with strings and comments joined over lines' ends."""
    found = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    for folder, kinds in (("edgecompile", ("py",)), ("launch", ("py", "yml", "service")), ("conf", ("yaml", "py"))):
        found += [path for kind in kinds for path in (ROOT / folder).rglob(f"*.{kind}")]
    for path in sorted(found):
        yield path, flat(path.read_text(encoding="utf-8"))


def flat(text: str) -> str:
    """In one line: adjacent string literals are one, comment signs at a line's begin are gone."""
    text = re.sub(r"""(["'])\s*\n\s*[rf]?\1""", "", text)
    return " ".join(re.sub(r"\n\s*#", "\n", text).split())


OUT = re.compile(
    "|".join(rf"(?<!\w){re.escape(phrase)}(?!\w)" for phrase in sorted(INSTEAD, key=len, reverse=True)), re.IGNORECASE
)


def faults(text: str) -> list[str]:
    found = [(match, INSTEAD[match[0].lower()]) for match in OUT.finditer(text)]
    found += [(match, "is not a") for match in IS_NO.finditer(text)]
    return [f"{text[max(0, match.start() - 30) : match.end() + 30]!r}: write {instead!r}" for match, instead in found]


@pytest.mark.slow
def test_words_that_were_taken_out_stay_out() -> None:
    found = {str(path.relative_to(ROOT)): faults(text) for path, text in texts()}
    assert {path: those for path, those in found.items() if those} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('raise UserError(f"microbatch: {value} does not "\n        "do")', 1),
        ("# what nobody reads is no\n# plan", 1),
        ("A file that is no longer there; there is no plan; none is no larger than another.", 0),
        ("A measurement goes on where it was, and begins anew.", 2),
        ("Recommended and amended.", 0),
    ],
)
def test_such_words_are_found(text: str, count: int) -> None:
    assert len(faults(flat(text))) == count


@pytest.mark.slow
def test_a_module_begins_with_one_line_that_says_what_it_is_for() -> None:
    for folder in ("edgecompile", "launch"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
            assert "\n" not in first, path
            assert first.endswith((".", "...`", "...")), (path, first)
            assert first.split()[0] not in ("What", "Who", "How", "Whether", "Which", "Why", "Where"), (path, first)


def test_the_glossary_has_the_product_s_terms_each_once() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
    assert sorted(set(terms)) == sorted(terms)
    assert set(terms) >= TERMS
