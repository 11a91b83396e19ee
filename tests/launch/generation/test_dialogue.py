"""Text as it streams is the text of all tokens; conversations read as transformers writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import CHATML, SAMPLES, generation, write_byte_fallback, write_byte_level
from tokenizers import Tokenizer

from edgecompile.contract.errors import UserError
from edgelaunch.generation.dialogue import Spelling, Text

KINDS = {"byte level": write_byte_level, "byte fallback": write_byte_fallback}
TALK = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Grüße 😀"},
        {"role": "assistant", "content": "Hallo."}, {"role": "user", "content": "the dog?"}]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = KINDS[request.param](tmp_path_factory.mktemp("tokenizer"))
    return path.parent


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def spelling(folder: Path) -> Spelling:
    return Spelling(generation(folder / "tokenizer.json"), folder, "here")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_level(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def bytes_alone(byte_level: Path) -> Spelling:
    return Spelling(generation(byte_level), byte_level.parent, "here")


def streamed(text: Text, tokens: list[int]) -> list[str]:
    """What comes with each token until it stops, and at the end."""
    pieces = []
    for token in tokens:
        pieces.append(text.add(token))
        if text.stopped:
            break
    return [*pieces, text.finish()]


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


# --- text as it streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES)
def test_pieces_are_the_whole_text(spelling: Spelling, tokenizer: Any, sample: str) -> None:
    tokens = tokens_of(tokenizer, sample)
    text = Text(spelling, [])
    pieces = streamed(text, tokens)
    assert "".join(pieces) == text.given == tokenizer.decode(tokens)
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text(spelling: Spelling, tokenizer: Any, text: str) -> None:
    tokens = tokens_of(tokenizer, text)
    assert "".join(streamed(Text(spelling, []), tokens)) == tokenizer.decode(tokens)


@given(tokens=st.lists(st.integers(0, 399), max_size=14))
def test_any_few_tokens(bytes_alone: Spelling, tokens: list[int]) -> None:
    """Half characters too."""
    assert "".join(streamed(Text(bytes_alone, []), tokens)) == bytes_alone.decoded(tokens)


@given(tokens=st.lists(st.integers(0, 268), max_size=60))
def test_any_tokens_give_text_that_grows(spelling: Spelling, tokens: list[int]) -> None:
    """What stands for bytes makes other text of earlier ones, where later ones are none of a character's."""
    text, so_far = Text(spelling, ["ab"]), ""
    for token in tokens:
        so_far += text.add(token)
        assert text.given == so_far
    assert so_far + text.finish() == text.given


def test_half_a_character_is_held_back(spelling: Spelling, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = tokens_of(tokenizer, "x🧿x")
    assert len(tokens) > 3
    pieces = streamed(Text(spelling, []), tokens)
    assert [piece for piece in pieces if piece] in (["x", "🧿", "x"], ["x", "🧿x"])
    half = tokens[:-2]
    assert "".join(streamed(Text(spelling, []), half)).startswith("x\ufffd")


def test_special_tokens_leave_no_text(spelling: Spelling, tokenizer: Any) -> None:
    the, dog = tokens_of(tokenizer, "the"), tokens_of(tokenizer, "dog")
    start, end = (tokenizer.token_to_id(word) for word in ("<|im_start|>", "<|im_end|>"))
    pieces = streamed(Text(spelling, []), [start, *the, end, start, *dog, end])
    assert "".join(pieces) == "thedog"


def test_a_word_that_is_written_with_a_mark_of_its_space_keeps_it(tmp_path: Path) -> None:
    path = write_byte_fallback(tmp_path)
    spelling = Spelling(generation(path), tmp_path, "here")
    marks = [Tokenizer.from_file(str(path)).token_to_id(word) for word in ("▁the", "▁dog", "▁the")]
    assert streamed(Text(spelling, []), marks) == ["the", " dog", " the", ""]


def test_text_that_holds_the_mark_of_half_a_character(spelling: Spelling, tokenizer: Any) -> None:
    tokens = tokens_of(tokenizer, "a\ufffdb\ufffd")
    assert "".join(streamed(Text(spelling, []), tokens)) == "a\ufffdb\ufffd"


# --- stop words ------------------------------------------------------------------------------------------------------


@given(data=st.data(), text=st.text("ab😀é \n", max_size=24))
def test_text_ends_before_a_stop_word_wherever_its_tokens_end(
    spelling: Spelling, tokenizer: Any, data: st.DataObject, text: str
) -> None:
    stop = data.draw(st.one_of(st.text("ab😀é \n", min_size=1, max_size=4), st.sampled_from([text[1:4] or "a"])))
    tokens = tokens_of(tokenizer, text)
    whole = tokenizer.decode(tokens)
    found = Text(spelling, [stop])
    pieces = streamed(found, tokens)
    assert "".join(pieces) == found.given == whole.partition(stop)[0]
    assert found.stopped == (stop in whole)


def test_what_may_be_a_stop_word_is_held_back_until_it_is_none(spelling: Spelling, tokenizer: Any) -> None:
    text, so_far = Text(spelling, ["STOP", "TOAST"]), ""
    for token in tokens_of(tokenizer, "a ST b S"):
        so_far += text.add(token)
        assert not so_far.endswith("S")
    assert text.finish() == "S"
    assert text.given == "a ST b S"
    assert not text.stopped


def test_nothing_comes_after_a_stop_word(spelling: Spelling, tokenizer: Any) -> None:
    text = Text(spelling, ["", "nothing", "fox"])
    tokens = tokens_of(tokenizer, "the fox jumps")
    assert "".join(text.add(token) for token in tokens) == "the "
    assert text.stopped
    assert text.finish() == ""
    assert text.given == "the "


# --- tokenizers and templates ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talking(byte_level: Path) -> Callable[..., Spelling]:
    def make(template: str | None, **values: Any) -> Spelling:
        return Spelling(generation(byte_level, template=template, **values), byte_level.parent, "here")

    return make


TEMPLATES = [
    CHATML,
    "{{ bos_token }}{% for m in messages %}[{{ m.role | upper }}] {{ m.content | trim }}{{ eos_token }}\n{% endfor %}",
    "{%- for m in messages %}\n    {%- if loop.index0 == 2 %}{% break %}{% endif %}\n    {{ m | tojson }}\n"
    "{%- endfor %}",
    "{% for m in messages %}\n{% if m.role == 'assistant' %}\n{% generation %}{{ m.content }}{% endgeneration %}\n"
    "{% else %}\n{{ m.content }}\n{% endif %}\n{% endfor %}",
    "{{ messages | length }}{{ tools is none }}{{ strftime_now('%Y') | length }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_are_written_as_transformers_does(
    talking: Callable[..., Spelling], byte_level: Path, template: str
) -> None:
    from transformers import PreTrainedTokenizerFast

    words = {"bos_token": "<s>", "eos_token": "</s>"}
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(byte_level), **words)
    theirs.chat_template = template
    want = theirs.apply_chat_template(TALK, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert talking(template, words=words).dialogue_tokens(TALK, "here") == want


def test_a_prompt_begins_as_the_tokenizer_has_it_and_a_conversation_as_the_template(
    talking: Callable[..., Spelling], byte_level: Path
) -> None:
    spelling = talking("{{ messages[0].content }}")
    plain = tokens_of(Tokenizer.from_file(str(byte_level)), "the dog")
    assert spelling.prompt_tokens("the dog") == [0, *plain]
    assert spelling.dialogue_tokens([{"role": "user", "content": "the dog"}], "here") == plain


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only users talk') }}", "refuses the messages: only users talk"),
        ("{{ messages[0].content + 1 }}", "refuses the messages"),
        ("{{ messages[9].content.upper() }}", "refuses the messages"),
        ("{{ 1 // 0 }}", "refuses the messages"),
        ("{% for i in range(1000000000) %}x{% endfor %}", "refuses the messages"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses the messages"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses the messages"),
        ("{% for m in messages %}", "cannot be read"),
        ("{{ messages | no_such_filter }}", "cannot be read"),
        (None, "no template of conversations"),
    ],
)
def test_templates_that_cannot_be_followed(talking: Callable[..., Spelling], template: str | None, said: str) -> None:
    spelling = talking(template)
    assert spelling.converses == (template is not None)
    with pytest.raises(UserError) as caught:
        spelling.dialogue_tokens(TALK, "x.jsonl:3")
    assert str(caught.value).startswith("x.jsonl:3: ")
    assert said in str(caught.value)


def test_tokenizers_that_are_not_there(byte_level: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the plan has no tokenizer"):
        Spelling(generation(None), tmp_path, "--prompt")
    with pytest.raises(UserError, match="the tokenizer is missing"):
        Spelling(generation(byte_level), tmp_path, "--prompt")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="the tokenizer is damaged"):
        Spelling(generation(byte_level), tmp_path, "--prompt")
    with pytest.raises(UserError, match="not a readable tokenizer"):
        Spelling(generation(tmp_path / "tokenizer.json"), tmp_path, "--prompt")
