"""Each line of a file is a request or has one clear reason why it is none; the others go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import mutations
from tiny_text import CHATML, generation, write_byte_level

from edgecompile.contract.errors import UserError
from edgelaunch.generation.answers import TextRequest
from edgelaunch.generation.dialogue import Spelling
from edgelaunch.generation.prompt_lines import Asked, Defaults, read_lines
from edgelaunch.generation.token_choice import Sampling

DEFAULTS = Defaults(max_tokens=9, sampling=Sampling(temperature=0.5, top_k=7, seed=3), stops=("END",))
PLAIN = Defaults(max_tokens=9, sampling=Sampling())


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Spelling:
    path = write_byte_level(tmp_path_factory.mktemp("tokenizer"))
    return Spelling(generation(path, template=CHATML), path.parent, "here")


def asked(
    folder: Path, spelling: Spelling | None, *lines: Any, defaults: Defaults = DEFAULTS, name: str = "x.jsonl"
) -> list[Asked]:
    """Lines are bytes, or values that become JSON."""
    path = folder / name
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return list(read_lines(path, generation(None), spelling, defaults))


def request_of(item: Asked) -> TextRequest:
    assert item.error is None
    assert item.request is not None
    return item.request


def test_lines_that_are_requests(tmp_path: Path, spelling: Spelling) -> None:
    talk = [{"role": "user", "content": "the dog"}]
    found = asked(
        tmp_path, spelling, "the dog", {"prompt": "the dog", "id": "a"}, {"messages": talk, "id": 7}, b"", b"  \t",
        {"tokens": [5, 6]}, {"prompt": [5, 6]}, [5, 6],
    )  # fmt: skip
    assert [item.id for item in found] == [None, "a", 7, None, None, None]
    lines = [1, 2, 3, 6, 7, 8]
    assert [item.shown for item in found] == [
        {"id": key, "line": line} for key, line in zip([1, "a", 7, 6, 7, 8], lines, strict=True)
    ]
    words = tuple(spelling.prompt_tokens("the dog"))
    assert [request_of(item).prompt for item in found] == [
        words, words, tuple(spelling.dialogue_tokens(talk, "")), (5, 6), (5, 6), (5, 6)
    ]  # fmt: skip
    for item in found:
        request = request_of(item)
        assert (request.max_tokens, request.sampling, request.stops) == (9, DEFAULTS.sampling, ("END",))
        assert not request.ignore_end


def test_what_a_line_asks_for_goes_before_the_defaults(tmp_path: Path, spelling: Spelling) -> None:
    (item,) = asked(tmp_path, spelling, {
        "prompt": "a", "max_tokens": 2, "temperature": 1, "top_k": 3, "top_p": 0.5, "repetition_penalty": 1.5,
        "seed": -4, "stop": ["x", "y"], "ignore_end": True,
    })  # fmt: skip
    request = request_of(item)
    assert request.sampling == Sampling(temperature=1.0, top_k=3, top_p=0.5, repetition_penalty=1.5, seed=-4)
    assert (request.max_tokens, request.stops, request.ignore_end) == (2, ("x", "y"), True)
    nothing = {"prompt": "a", "max_tokens": None, "temperature": None, "top_k": None, "stop": None}
    one, none, word = asked(tmp_path, spelling, nothing, {"prompt": "a", "stop": []}, {"prompt": "a", "stop": "x"})
    assert request_of(one).sampling == DEFAULTS.sampling
    assert [request_of(item).stops for item in (one, none, word)] == [(), (), ("x",)]


BAD: list[tuple[Any, str]] = [
    (b"{", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"prompt": "\xff"}', "byte 12 is not UTF-8 text"),
    (b'{"prompt": "a\0"}', "zero byte"),
    (b"1" * 5000, "not JSON"),
    (5, "expected a string or an object"),
    (None, "expected a string or an object"),
    (True, "expected a string or an object"),
    ({}, "expected one of prompt, messages and tokens, not none"),
    ({"prompt": "a", "tokens": [1]}, "expected one of prompt, messages and tokens, not prompt and tokens"),
    ({"promt": "a"}, "unknown key 'promt': did you mean prompt?"),
    ({"prompt": "a", "\ud800": 1}, r"unknown key '\ud800'"),
    ({"prompt": 5}, "invalid value 5 for prompt"),
    ({"prompt": None}, "invalid value None for prompt"),
    ({"prompt": "\ud83d"}, "half a character"),
    ({"messages": "hello"}, "messages: expected a list"),
    ({"messages": []}, "messages: expected a list"),
    ({"messages": ["hello"]}, "messages.0: expected an object"),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "me", "content": "a"}]},
        "messages.1: invalid value 'me'",
    ),
    ({"messages": [{"role": ["user"], "content": "a"}]}, "messages.0: invalid value ['user'] for role"),
    ({"messages": [{"content": "a"}]}, "invalid value None for role"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0: content: expected a string"),
    ({"messages": [{"role": "user"}]}, "messages.0: content: expected a string"),
    ({"messages": [{"role": "user", "content": "\ud83d"}]}, "half a character"),
    ({"tokens": "12"}, "invalid value for tokens: expected a list of token ids"),
    ({"tokens": [1, 2.0]}, "expected a list of token ids"),
    ({"tokens": [True]}, "expected a list of token ids"),
    ({"tokens": []}, "the prompt is empty"),
    ({"tokens": [400]}, "token 400 is none of the model's 400"),
    ({"tokens": [-1]}, "token -1 is none of the model's 400"),
    ({"tokens": [1] * 64}, "the prompt has 64 tokens, and the context 64"),
    ({"prompt": "a", "id": 1.5}, "invalid value 1.5 for id"),
    ({"prompt": "a", "id": None}, "invalid value None for id"),
    ({"prompt": "a", "id": "\ud800"}, "id holds half a character"),
    ({"prompt": "a", "max_tokens": 0}, "invalid value 0 for max_tokens"),
    ({"prompt": "a", "max_tokens": 2.5}, "invalid value 2.5 for max_tokens: expected a whole number"),
    ({"prompt": "a", "max_tokens": True}, "expected a whole number"),
    ({"prompt": "a", "temperature": "hot"}, "invalid value 'hot' for temperature: expected a number"),
    ({"prompt": "a", "temperature": float("nan")}, "invalid value nan for temperature"),
    ({"prompt": "a", "temperature": 10**400}, "invalid value for temperature: a number of 401 digits"),
    ({"prompt": "a", "temperature": True}, "expected a number"),
    ({"prompt": "a", "top_p": 0}, "for top_p: expected more than 0"),
    ({"prompt": "a", "top_k": 65}, "generation.candidates"),
    ({"prompt": "a", "repetition_penalty": -1}, "for repetition_penalty"),
    ({"prompt": "a", "seed": 1 << 70}, "for seed"),
    ({"prompt": "a", "seed": 10**400}, "for seed"),
    ({"prompt": "a", "stop": 5}, "invalid value 5 for stop"),
    ({"prompt": "a", "stop": ["a", None]}, "for stop: expected a string or a list of strings"),
    ({"prompt": "a", "ignore_end": 1}, "invalid value 1 for ignore_end: expected true or false"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_lines_that_are_none(tmp_path: Path, spelling: Spelling, number: int) -> None:
    line, said = BAD[number]
    before, bad, after = asked(
        tmp_path, spelling, {"prompt": "a", "id": "before"}, line, {"prompt": "a", "id": "after"}
    )
    assert [before.id, after.id] == ["before", "after"]
    assert request_of(before) == request_of(after)
    assert bad.request is None
    assert bad.error is not None
    assert bad.error.startswith(f"{tmp_path / 'x.jsonl'}:2: ")
    assert said in bad.error
    assert "\n" not in bad.error
    assert bad.id is None
    assert bad.shown == {"id": None, "line": 2}


def test_an_error_has_the_id_of_its_line(tmp_path: Path, spelling: Spelling) -> None:
    (bad,) = asked(tmp_path, spelling, {"id": "mine", "prompt": 5})
    assert bad.shown == {"id": "mine", "line": 1}
    assert bad.error is not None


def test_a_line_that_is_too_long_is_skipped(tmp_path: Path, spelling: Spelling) -> None:
    long = json.dumps({"prompt": "a" * (1 << 20)}).encode()
    first, bad, last = asked(tmp_path, spelling, {"prompt": "a"}, long * 3, {"prompt": "a"})
    assert request_of(first) == request_of(last)
    assert (bad.id, bad.line, last.id, last.line) == (None, 2, None, 3)
    assert "a line of more than 1048576 bytes" in str(bad.error)


def test_lines_of_a_text_file_are_prompts(tmp_path: Path, spelling: Spelling) -> None:
    found = asked(tmp_path, spelling, b'{"prompt": 5}', b"", b"the dog\r", b"\xff", name="x.TXT")
    assert [item.shown["id"] for item in found] == [1, 3, None]
    assert [item.line for item in found] == [1, 3, 4]
    assert request_of(found[0]).prompt == tuple(spelling.prompt_tokens('{"prompt": 5}'))
    assert request_of(found[1]).prompt == tuple(spelling.prompt_tokens("the dog"))
    assert "is not UTF-8 text" in str(found[2].error)


def test_without_a_tokenizer_prompts_are_token_ids(tmp_path: Path) -> None:
    lines = [{"tokens": [1, 2]}, "the dog", {"messages": [{"role": "user", "content": "a"}]},
             {"tokens": [1], "stop": "a"}]  # fmt: skip
    good, text, talk, stop = asked(tmp_path, None, *lines, defaults=PLAIN)
    assert request_of(good).prompt == (1, 2)
    for item in (text, talk):
        assert "the plan has no tokenizer: give token ids" in str(item.error)
    assert "stop words need the tokenizer" in str(stop.error)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file or directory"):
        list(read_lines(tmp_path / "none.jsonl", generation(None), None, PLAIN))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(read_lines(tmp_path, generation(None), None, PLAIN))


def test_whatever_bytes_a_line_has_the_next_is_read(tmp_path: Path, spelling: Spelling) -> None:
    seed = json.dumps({
        "id": "a", "messages": [{"role": "user", "content": "the \ud83d\ude00 dog"}], "max_tokens": 5,
        "temperature": 0.7, "top_k": 5, "seed": 12, "stop": ["x"], "ignore_end": False,
    }).encode()  # fmt: skip
    lines = [line.replace(b"\n", b" ") for line in mutations(seed, 1500)]
    last = {"prompt": "a", "id": "last"}
    found = asked(tmp_path, spelling, *lines, last)
    assert found[-1].id == "last"
    request_of(found[-1])
    assert len(found) == 1 + sum(bool(line.strip()) for line in lines)
    for item in found:
        json.dumps(item.id, ensure_ascii=False).encode()
        assert (item.request is None) == (item.error is not None)
        assert "\n" not in str(item.error)
