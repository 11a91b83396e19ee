"""The data host's part of a command that generates text: a prompt, a file of prompts, or a conversation."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.files.user_files import printable
from edgecompile.contract.plan import Plan
from edgecompile.execution.closeness import SLACK
from edgelaunch.commands.conversation import converse, cut_off
from edgelaunch.control.supervisor import Run, Supervisor
from edgelaunch.generation.answers import Answer, TextRequest
from edgelaunch.generation.dialogue import Spelling
from edgelaunch.generation.prompt_lines import Asked, Defaults, read_lines, request_from
from edgelaunch.generation.text_ends import TextEnds
from edgelaunch.generation.text_report import figures_of_all, lines_of
from edgelaunch.generation.text_tally import TextTally
from edgelaunch.generation.token_choice import Sampling, usual_top_k
from edgelaunch.outputs.answer_file import AnswerFile
from edgelaunch.outputs.golden import GoldenFile
from edgelaunch.outputs.partial_results import origin_of
from edgelaunch.process.stderr import say
from edgelaunch.report.run_file import keep_record, record_of
from edgelaunch.report.run_report import console, print_report
from edgelaunch.request.run_request import RunRequest

__all__ = ["TextSession"]

RECORD = "run.json"
DEFAULT_TOKENS = 256
MOST_UNWRITTEN = 1024
"""Answers to lines that were asked for and are not written yet."""


def _check(request: RunRequest) -> None:
    """Raises UserError where an option is of items alone."""
    for name, given in (
        ("--input -", request.from_stdin), ("--rate", request.rate), ("--when-full", request.when_full),
        ("--on-bad-item", request.on_bad_item), ("--repeat", request.repeat),
    ):  # fmt: skip
        if given:
            raise UserError(f"{name} is for models whose items have one result each: this plan generates text, of "
                            "--prompt, --chat or an --input file")  # fmt: skip


class TextSession:
    """As Session, of a plan that generates text."""

    def __init__(self, request: RunRequest, plan: Plan, folder: Path) -> None:
        """Raises UserError where the prompt, the input or the output is invalid."""
        assert plan.generation is not None
        _check(request)
        self._request, self._plan, self._generation = request, plan, plan.generation
        self._record = request.run if request.run is not None else folder / RECORD
        self._began = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._folder = folder
        needs = request.prompt is not None or request.chat
        where = "--chat" if request.chat else "--prompt"
        has = plan.generation.tokenizer is not None
        self._spelling = Spelling(plan.generation, folder, where) if needs or has else None
        self._defaults = Defaults(
            max_tokens=request.max_tokens or DEFAULT_TOKENS, stops=(request.stop,) if request.stop else (),
            sampling=Sampling(
                temperature=request.temperature, top_k=usual_top_k(request.top_k, plan.generation.candidates),
                top_p=request.top_p, repetition_penalty=request.repetition_penalty, seed=request.seed,
            ),
        )  # fmt: skip
        self._defaults.sampling.check(plan.generation.candidates)
        self._prompt = self._prompt_request()
        if request.chat and self._spelling is not None and not self._spelling.converses:
            raise UserError("--chat: the model has no template of conversations: give --prompt")
        self._writer: AnswerFile | None = None
        if request.output is not None:
            origin = replace(origin_of(plan, request), options=self._options())
            self._writer = AnswerFile(request.output, origin, resume=request.resume)
        self._tally = TextTally()
        """Of the ends, once they are made. Answers are let go of as soon as they are written."""
        self._prompted: Answer | None = None
        self._room = threading.BoundedSemaphore(MOST_UNWRITTEN)
        self._errors = 0
        self._wrong: list[str] = []
        self._lock = threading.Lock()
        self._over = False
        """Whether nothing is written any more."""
        self._unwritten: UserError | None = None
        self._golden = GoldenFile(plan, folder) if request.verify else None
        self._num_equal = self._num_scored = 0
        self._worst = 0.0

    def _prompt_request(self) -> TextRequest | None:
        request, spelling = self._request, self._spelling
        if request.prompt is None or spelling is None:
            return None
        value: Any = {"prompt": request.prompt}
        if spelling.converses and not request.raw:
            value = {"messages": [{"role": "user", "content": request.prompt}]}
        return request_from(value, "--prompt", self._generation, spelling, self._defaults)

    def _options(self) -> dict[str, Any]:
        """Those of which answers depend, as they hold for lines that say nothing."""
        said, sampling = self._defaults, self._defaults.sampling
        return {
            "--max-tokens": said.max_tokens, "--stop": said.stops[0] if said.stops else None,
            "--temperature": sampling.temperature, "--top-k": sampling.top_k, "--top-p": sampling.top_p,
            "--repetition-penalty": sampling.repetition_penalty, "--seed": sampling.seed, "--raw": self._request.raw,
        }  # fmt: skip

    # --- of the rank -------------------------------------------------------------------------------------------------

    def ends(self, plan: Plan) -> TextEnds:
        ends = TextEnds(plan, self._folder, self._work, spelling=self._spelling)
        self._tally = ends.tally
        return ends

    def look_at(self, runner: Supervisor) -> None:
        """A text shows its own progress."""

    def discard(self) -> None:
        if self._writer is not None:
            with self._lock:  # an answer may just be written
                self._writer.close()
                self._over = True

    def tell_interrupted(self, rank: Supervisor) -> None:
        if not self._request.json and self._tally.requests:
            console().print(f"stopped after {self._tally.requests} answers", soft_wrap=True)

    def report(self, rank: Supervisor) -> None:
        """Prints what was measured; keeps the run's record."""
        if self._writer is not None:
            self._writer.finish()
        if self._wrong:
            raise UserError(self._wrong[0])
        figures = figures_of_all(self._tally)
        if rank.run is not None:
            self._keep(rank.run, figures.as_json())
        if self._request.json:
            return
        out = console()
        if self._request.verify:
            texts = self._generation.golden
            tokens = sum(len(text.tokens) for text in texts)
            said = f"; {self._plan.rounding}, so that other tokens are counted" if self._plan.lossy else ""
            out.print(f"verified: scores of {self._num_scored} golden items within the plan's tolerance (largest "
                      f"difference {self._worst:.3g})", markup=False)  # fmt: skip
            out.print(f"verified: {self._num_equal} of {tokens} tokens of {len(texts)} golden texts equal "
                      f"transformers' generate(){said}", markup=False)  # fmt: skip
        if self._request.output is not None:
            errors = f", {self._errors} with an error" if self._errors else ""
            total = self._writer.num_lines if self._writer is not None else 0
            out.print(f"{total} answers in {printable(str(self._request.output))}{errors}", markup=False)
        if not self._request.quiet:
            if rank.run is not None:
                print_report(rank.run.plan, rank.run, items="rows")
            for line in lines_of(figures, self._generation):
                out.print(line, markup=False, soft_wrap=True)

    def _keep(self, run: Run, figures: dict[str, Any]) -> None:
        text = self._tally.record(self._generation, run.ranks[0].machine)
        record = record_of(run.plan, run, file_sha256(self._request.plan_path), self._began, text)
        keep_record(record, self._record, named=self._request.run is not None)
        if self._request.json:
            shown = [self._as_json(self._prompted)] if self._prompted is not None else None
            print(json.dumps({"text": figures, "answers": shown, "errors": self._errors,
                              "pauses_s": run.pauses_s}), flush=True)  # fmt: skip

    @staticmethod
    def _as_json(answer: Answer) -> dict[str, Any]:
        return {
            "text": answer.text, "tokens": answer.tokens, "finish": answer.finish,
            "prompt_tokens": len(answer.request.prompt), "generated_tokens": len(answer.tokens),
        }  # fmt: skip

    # --- the requests, in a thread of their own ----------------------------------------------------------------------

    def _work(self, ends: TextEnds) -> None:
        if self._request.verify:
            self._verify(ends)
        if self._prompt is not None:
            self._prompted = self._stream(ends, self._prompt)
        if self._request.chat:
            self._converse(ends)
        elif self._request.input is not None:
            self._answer_lines(ends)
        elif self._prompt is None and not self._request.verify:
            self._synthetic(ends)

    def _stream(self, ends: TextEnds, request: TextRequest) -> Answer:
        answer = ends.ask(request)
        for piece in answer.pieces():
            self._show(piece)
        self._show("\n")
        why = cut_off(answer, self._generation)
        if why is not None and not self._request.json:
            say(f"({why})", event="cut_off", finish=answer.finish)
        return answer

    def _show(self, piece: str) -> None:
        if not self._request.json:
            with contextlib.suppress(BrokenPipeError):
                print(piece, end="", flush=True)

    def _converse(self, ends: TextEnds) -> None:
        spelling = self._spelling
        assert spelling is not None

        def answer_to(messages: list[dict[str, Any]]) -> Answer:
            request = request_from({"messages": messages}, "--chat", self._generation, spelling, self._defaults)
            return self._stream(ends, request)

        converse(answer_to, self._show, self._generation, quiet=self._request.quiet)

    def _asked_lines(self, path: Path) -> Iterator[Asked]:
        """The lines; one with the id of an earlier one has a reason in place of a request."""
        seen = set[tuple[str, Any]]()
        for asked in read_lines(path, self._generation, self._spelling, self._defaults):
            key = (type(asked.id).__name__, asked.id)
            said = f"{path}:{asked.line}: the id {asked.id!r} is another line's too: give each line one of its own"
            yield replace(asked, request=None, error=said) if key in seen else asked
            if asked.id is not None:
                seen.add(key)

    def _answer_lines(self, ends: TextEnds) -> None:
        assert self._request.input is not None
        ended: SimpleQueue[tuple[Asked, Answer] | int] = SimpleQueue()
        writer = threading.Thread(target=self._write_all, args=(ended,), daemon=True)
        writer.start()
        count = 0
        for asked in islice(self._asked_lines(self._request.input), self._request.items):
            if self._writer is not None and self._writer.has(asked.line):
                continue
            if asked.request is None:
                say(str(asked.error), level=logging.WARNING, about="edgelaunch", event="bad_item")
                self._write(asked, None)
                continue
            if not self._has_room():
                break
            ends.ask(asked.request, ended=partial(_put, ended, asked))
            count += 1
        ended.put(count)
        writer.join()
        if self._unwritten is not None:
            raise self._unwritten

    def _write_all(self, ended: SimpleQueue[tuple[Asked, Answer] | int]) -> None:
        """Answers as they are complete, until as many are written as there are; slow output makes no rank wait."""
        done, total = 0, -1
        while done != total:
            found = ended.get()
            if isinstance(found, int):
                total = found
                continue
            try:
                self._write(*found)
            except UserError as error:
                self._unwritten = error
                return
            done += 1
            self._room.release()

    def _has_room(self) -> bool:
        """Waits until another answer may be under way or wait for its place in the file; False: none can be written."""
        while self._unwritten is None:
            if self._room.acquire(timeout=0.1):
                return True
        return False

    def _write(self, asked: Asked, answer: Answer | None) -> None:
        """Raises UserError where it cannot be written."""
        values = asked.shown | ({"error": asked.error} if answer is None else self._as_json(answer))
        with self._lock:
            if self._over or (answer is not None and answer.finish == "cancelled"):
                return  # the run has ended before: whoever resumes it asks again
            self._errors += answer is None
            if self._writer is not None:
                self._writer.add(values)
            elif not self._request.json:
                self._show(json.dumps(values, ensure_ascii=False) + "\n")

    def _synthetic(self, ends: TextEnds) -> None:
        """Prompts of the golden texts' tokens, as many requests as were asked for, of the plan's usual lengths."""
        texts = self._generation.golden
        source = max(texts, key=lambda text: len(text.prompt)).prompt if texts else (0,)
        length = min(self._generation.prompt, self._generation.context - 1)
        prompt = (source * (length // len(source) + 1))[:length]
        count = self._request.items or self._generation.slots
        most = min(self._request.max_tokens or self._generation.tokens, self._generation.context - length)
        request = TextRequest(prompt=prompt, max_tokens=most, sampling=self._defaults.sampling, ignore_end=True)
        asked = deque[Answer]()
        for _ in range(count):
            asked.append(ends.ask(request))
            while asked and asked[0].done:
                asked.popleft()
        for answer in asked:
            answer.wait()

    def _greedy(self, prompt: tuple[int, ...], count: int, *, keep_scores: bool = False) -> TextRequest:
        """For so many tokens, each the most likely one, of a plan with however few candidates."""
        sampling = Sampling(top_k=usual_top_k(None, self._generation.candidates))
        return TextRequest(
            prompt=prompt, sampling=sampling, max_tokens=count, ignore_end=True, keep_scores=keep_scores
        )  # fmt: skip

    def _verify_scores(self, ends: TextEnds) -> None:
        """Of the golden items' next tokens, in whatever precision: within what the plan allows of the logits."""
        assert self._golden is not None
        allowed = SLACK * self._plan.golden.tolerance["logits"]
        for item in self._golden.items():
            ids, positions = item.arrays["input_ids"], item.arrays["positions"]
            prompt = tuple(ids[positions >= 0].tolist())
            if len(prompt) >= self._generation.context:
                continue
            answer = ends.ask(self._greedy(prompt, 1, keep_scores=True))
            answer.wait()
            if answer.scores is None:  # the run is over before
                return
            scores, numbers = answer.scores
            expected = self._golden.expected("logits", item.entry.index).numpy()[numbers]
            gap = float(abs(scores - expected).max())
            self._num_scored, self._worst = self._num_scored + 1, max(self._worst, gap)
            if not gap <= allowed:
                raise UserError(
                    f"not verified: scores of golden item {item.entry.index} differ from the model's by {gap:g}, the "
                    f"plan allows {allowed:g}: a shard or a machine computes other results than the machine that "
                    "compiled the plan"
                )

    def _verify(self, ends: TextEnds) -> None:
        """Greedily, as generate() made them; without a tokenizer's help."""
        self._verify_scores(ends)
        texts = self._generation.golden
        asked = [ends.ask(self._greedy(text.prompt, len(text.tokens))) for text in texts]
        for index, (text, answer) in enumerate(zip(texts, asked, strict=True)):
            answer.wait()
            same = [one == other for one, other in zip(answer.tokens, text.tokens, strict=False)]
            self._num_equal += sum(same)
            if not self._plan.lossy and (len(answer.tokens) != len(text.tokens) or not all(same)):
                place = same.index(False) if False in same else len(same)
                self._wrong.append(
                    f"golden text {index} differs from transformers' generate() from token {place} on: the pipeline "
                    "computes another model, or this machine rounds otherwise than the compiler's"
                )


def _put(ended: SimpleQueue[tuple[Asked, Answer] | int], asked: Asked, answer: Answer) -> None:
    ended.put((asked, answer))
