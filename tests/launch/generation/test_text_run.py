"""Text from two ranks is transformers' own, whatever happens to them on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launch_harness import DEADLINE_S, PROGRAM, Running, free_port, rank_process, run, run_ranks, wait_gone
from launch_plans import Written
from text_requests import Answers, random_requests, read_answers, wait_for_answers, write_lines
from tokenizers import Tokenizer

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import write_plan

pytestmark = pytest.mark.slow

COUNT = 40


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests of unlike lengths, every other one sampled; more than slots, and a few seconds of work."""
    lines = random_requests(3, COUNT, repetition_penalty=1.1)
    return write_lines(tmp_path_factory.mktemp("asked") / "asked.jsonl", lines)


@pytest.fixture(scope="session")
def undisturbed(text_plan: Path, asked: Path) -> Answers:
    output = asked.with_name("undisturbed.jsonl")
    ended = run(text_plan, "--local", "--input", asked, "--output", output).expect(0)
    assert f"{COUNT} answers in {output}" in ended.out.replace("\n", "")
    assert not output.with_name(f"{output.name}.partial").exists()
    return read_answers(output)


# --- the tokens ------------------------------------------------------------------------------------------------------


def test_golden_texts_are_generated_again(text_plan: Path, text_facts: Plan) -> None:
    ended = run(text_plan, "--local", "--verify").expect(0)
    assert "verified: 128 of 128 tokens of 4 golden texts equal transformers' generate()" in " ".join(ended.out.split())
    assert "4 requests" in ended.out


def test_other_scores_are_found_out_in_any_precision(text_plan: Path, text_facts: Plan, tmp_path: Path) -> None:
    """As where a kernel computes something else: the tokens alone would not tell in a plan that rounds."""
    shutil.copytree(text_plan.parent, tmp_path / "plan")
    tight = replace(text_facts.golden, tolerance={**text_facts.golden.tolerance, "logits": 0.0})
    write_plan(replace(text_facts, golden=tight), tmp_path / "plan" / "plan.yaml")
    ended = run(tmp_path / "plan" / "plan.yaml", "--local", "--verify").expect(2)
    assert "not verified: scores of golden item" in ended.err


def test_another_golden_text_is_found_out(text_plan: Path, text_facts: Plan, tmp_path: Path) -> None:
    assert text_facts.generation is not None
    folder = tmp_path / "out"
    shutil.copytree(text_plan.parent, folder)
    golden = list(text_facts.generation.golden)
    tokens = golden[1].tokens
    golden[1] = replace(golden[1], tokens=(*tokens[:4], (tokens[4] + 1) % 400, *tokens[5:]))
    generation = replace(text_facts.generation, golden=tuple(golden))
    write_plan(replace(text_facts, generation=generation), folder / "plan.yaml")
    ended = run(folder / "plan.yaml", "--local", "--verify")
    ended.expect_error("golden text 1 differs from transformers' generate() from token 4 on")


def test_ranks_that_are_started_one_by_one(text_plan: Path, tmp_path: Path, asked: Path, undisturbed: Answers) -> None:
    output, master = tmp_path / "y.jsonl", f"127.0.0.1:{free_port()}"
    data = ("--input", asked, "--output", output, "--items", 5)
    ended = run_ranks(
        [[text_plan, "--rank", rank, "--master", master, *(data if rank == 0 else ())] for rank in (0, 1)]
    )
    for item in ended:
        item.expect(0)
    assert read_answers(output) == {key: undisturbed[key] for key in [f"n{number}" for number in range(5)]}


def test_answers_have_what_was_asked(asked: Path, undisturbed: Answers, text_plan: Path, text_facts: Plan) -> None:
    assert text_facts.generation is not None
    tokenizer = Tokenizer.from_file(str(text_plan.parent / str(text_facts.generation.tokenizer)))
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    assert set(undisturbed) == {line["id"] for line in lines}
    for line in lines:
        answer = undisturbed[line["id"]]
        assert len(answer["tokens"]) == answer["generated_tokens"] == line["max_tokens"]
        assert answer["prompt_tokens"] == len(line["tokens"])
        assert answer["finish"] == "length"
        assert answer["text"] == tokenizer.decode(answer["tokens"])


def test_an_answer_ends_where_the_context_does(text_plan: Path, tmp_path: Path) -> None:
    lines = [{"tokens": [5] * count, "max_tokens": 500, "ignore_end": True} for count in (127, 126, 100)]
    output = tmp_path / "y.jsonl"
    run(text_plan, "--local", "--input", write_lines(tmp_path / "x.jsonl", lines), "--output", output).expect(0)
    answers = read_answers(output)
    assert [len(answers[number]["tokens"]) for number in (1, 2, 3)] == [1, 2, 28]
    assert {answer["finish"] for answer in answers.values()} == {"length"}


# --- files -----------------------------------------------------------------------------------------------------------


def test_bad_lines_have_an_error_and_the_others_an_answer(
    text_plan: Path, tmp_path: Path, undisturbed: Answers, asked: Path
) -> None:
    good = [json.loads(line) for line in asked.read_text().splitlines()[:2]]
    path = write_lines(tmp_path / "x.jsonl", [
        good[0], {"id": "bad", "prompt": 5}, good[1], {"tokens": [4], "max_tokens": 3}, {"tokens": [400]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
    ])  # fmt: skip
    path.write_bytes(path.read_bytes() + b"{\n")
    output = tmp_path / "y.jsonl"
    ended = run(text_plan, "--local", "--input", path, "--output", output).expect(0)
    answers = {value["line"]: value for value in map(json.loads, output.read_text().splitlines())}
    ids = {line: value["id"] for line, value in answers.items()}
    assert ids == {1: "n0", 2: "bad", 3: "n1", 4: 4, 5: None, 6: None, 7: None}
    assert {line for line, value in answers.items() if "error" in value} == {2, 5, 6, 7}
    assert (answers[1], answers[3] | {"line": 2}) == (undisturbed["n0"], undisturbed["n1"])
    assert answers[2] == {
        "id": "bad", "line": 2, "error": f"{path}:2: invalid value 5 for prompt: expected a string"
    }  # fmt: skip
    assert "7 answers" in ended.out
    assert "4 with an error" in ended.out
    for line in (2, 5, 6, 7):
        assert answers[line]["error"] in ended.err


def test_two_lines_with_one_id_are_told(text_plan: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"id": 2, "tokens": [5], "max_tokens": 1}, {"id": 2, "tokens": [6]}])
    ended = run(text_plan, "--local", "--quiet", "--input", path).expect(0)
    assert f"{path}:2: the id 2 is another line's too" in ended.err
    assert [json.loads(line).get("finish") for line in ended.out.splitlines() if line.startswith("{")] == [
        None,
        "length",
    ]


def test_without_an_output_answers_are_printed(text_plan: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"tokens": [5, 6], "max_tokens": 2}, {"tokens": []}])
    ended = run(text_plan, "--local", "--quiet", "--input", path).expect(0)
    found = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    assert {(value["id"], value["line"]): "error" in value for value in found} == {(1, 1): False, (None, 2): True}


def test_json_is_one_object(text_plan: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"tokens": [5, 6], "max_tokens": 3, "ignore_end": True}, {"tokens": []}])
    output = tmp_path / "y.jsonl"
    ended = run(text_plan, "--local", "--json", "--input", path, "--output", output).expect(0)
    told = json.loads(ended.out)
    assert (told["text"]["requests"], told["text"]["prompt_tokens"], told["text"]["tokens"]) == (1, 2, 3)
    assert (told["errors"], told["text"]["rebuilt"], told["pauses_s"]) == (1, 0, [])
    asked_once = run(text_plan, "--local", "--json", "--prompt", "the fox", "--max-tokens", 4).expect(0)
    (answer,) = json.loads(asked_once.out)["answers"]
    assert len(answer["tokens"]) == answer["generated_tokens"] <= 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--output", "y.txt"), ".jsonl"),
        (("--top-p", 0), "for top_p: expected more than 0"),
        (("--temperature", -1), "for temperature"),
        (("--max-tokens", 0), "invalid value 0 for --max-tokens: expected 1 or more"),
        (("--max-tokens", -1), "invalid value -1 for --max-tokens"),
        (("--input", "none.jsonl"), "none.jsonl"),
        (("--input", "-"), "--input - is for models whose items have one result each"),
        (("--rate", 5), "--rate is for models"),
        (("--on-bad-item", "gap"), "--on-bad-item is for models"),
        (("--prompt", "x " * 300, "--raw"), "and the context 128"),
    ],
)
def test_options_that_are_not_allowed(text_plan: Path, options: tuple[Any, ...], said: str) -> None:
    run(text_plan, "--local", *options).expect_error(said)


@pytest.mark.parametrize("options", [("--prompt", "x y"), ("--chat",)])
def test_a_plan_that_generates_no_text_is_not_asked_for_one(two_stages: Written, options: tuple[str, ...]) -> None:
    run(two_stages.path, "--local", *options).expect_error(f"{options[0]} is for plans that generate text")


# --- conversations ---------------------------------------------------------------------------------------------------


def test_a_prompt_streams_its_answer(text_plan: Path) -> None:
    options = ("--local", "--quiet", "--prompt", "the dog", "--max-tokens", 12)
    told = json.loads(run(text_plan, *options, "--json").expect(0).out)["answers"][0]
    shown = run(text_plan, *options).expect(0).out
    assert shown.startswith(told["text"] + "\n")
    raw = json.loads(run(text_plan, *options, "--raw", "--json").expect(0).out)["answers"][0]
    assert raw["prompt_tokens"] < told["prompt_tokens"]  # the template's own are missing
    word = told["text"].strip()[3:5]
    stopped = json.loads(run(text_plan, *options, "--stop", word, "--json").expect(0).out)["answers"][0]
    assert stopped["text"] == told["text"].partition(word)[0]
    assert stopped["finish"] == "stop"


def test_a_conversation_remembers_what_was_said(text_plan: Path) -> None:
    def talk(*lines: str) -> list[str]:
        ended = subprocess.run(
            [*PROGRAM, str(text_plan), "--local", "--quiet", "--chat", "--max-tokens", "5", "--temperature", "0.8"],
            input="".join(line + "\n" for line in lines), capture_output=True, text=True, timeout=DEADLINE_S,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.split("\n")

    first, again, other = talk("the dog"), talk("the dog", "", "the fox"), talk("the fox")
    assert again[0] == first[0]
    assert again[1] not in ("", other[0])


def test_a_conversation_that_is_too_long_is_begun_anew(text_plan: Path) -> None:
    """The context has 128 tokens. Cut answers are marked, and not in their text."""
    lines = ["the dog", *["a word " * 10] * 4, "/new", "the dog"]
    ended = subprocess.run(
        [*PROGRAM, str(text_plan), "--local", "--quiet", "--chat", "--max-tokens", "5"],
        input="".join(line + "\n" for line in lines), capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "the conversation is too long for the context of 128 tokens: begin a new one with /new" in ended.stderr
    assert "(cut off after 5 tokens: --max-tokens)" in ended.stderr
    assert "cut off" not in ended.stdout
    first, anew = ended.stdout.partition("> the dog\n")[2], ended.stdout.partition("> /new\n> the dog\n")[2]
    assert anew
    assert first.partition("\n> ")[0] == anew.rstrip("\n")


# --- what may happen -------------------------------------------------------------------------------------------------


def kill_rank(plan: Path) -> None:
    os.kill(rank_process(plan, 1), signal.SIGKILL)


def test_a_killed_rank_changes_no_answer(text_plan: Path, tmp_path: Path, asked: Path, undisturbed: Answers) -> None:
    output = tmp_path / "y.jsonl"
    running = Running([text_plan, "--local", "--json", "--input", asked, "--output", output])
    for count in (3, 10):
        wait_for_answers(running, output, count)
        kill_rank(text_plan)
    ended = running.wait().expect(0)
    told = json.loads(ended.out)
    assert told["text"]["rebuilt"] > 0
    assert told["text"]["requests"] == COUNT
    assert len(told["pauses_s"]) >= 1
    assert read_answers(output) == undisturbed


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_is_resumed(
    text_plan: Path, tmp_path: Path, asked: Path, undisturbed: Answers, stop: signal.Signals
) -> None:
    output = tmp_path / "y.jsonl"
    options = ("--local", "--input", asked, "--output", output)
    running = Running([text_plan, *options])
    wait_for_answers(running, output, 5)
    if stop == signal.SIGKILL:
        os.killpg(running.process.pid, stop)
    else:
        running.process.send_signal(stop)
    assert running.wait().code == (-stop if stop == signal.SIGKILL else 130)
    wait_gone(text_plan, 10)
    rows = output.with_name(f"{output.name}.partial") / "rows.jsonl"
    whole = rows.read_bytes()
    done = whole.count(b"\n")
    assert 5 <= done < COUNT
    rows.write_bytes(whole + b'{"id": "n3')  # as a machine that lost its power leaves it
    told = json.loads(run(text_plan, *options, "--resume", "--json").expect(0).out)
    assert told["text"]["requests"] == COUNT - done
    assert output.read_bytes().startswith(whole)
    assert read_answers(output) == undisturbed


def test_another_input_is_not_resumed(text_plan: Path, tmp_path: Path, asked: Path) -> None:
    output = tmp_path / "y.jsonl"
    running = Running([text_plan, "--local", "--input", asked, "--output", output])
    wait_for_answers(running, output, 1)
    running.process.send_signal(signal.SIGINT)
    running.wait()
    wait_gone(text_plan, 10)
    other = write_lines(tmp_path / "x.jsonl", [{"tokens": [5]}])
    ended = run(text_plan, "--local", "--input", other, "--output", output, "--resume")
    ended.expect_error("holds results of another input")
