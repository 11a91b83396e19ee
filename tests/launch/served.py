"""A plan that `edgelaunch serve --local` serves in a process of its own, and small plans of text and images for it."""

from __future__ import annotations

import os
import signal
import time
from json import dumps, loads
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import launch_plans
import torch
from launch_harness import DEADLINE_S, Ended, Running
from tokenizers import Tokenizer, models, pre_tokenizers

from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.plan import DataSpec, ImageSpec, TextSpec

__all__ = ["IMAGE", "WORDS", "Served", "embedding_plan", "image_plan"]

IMAGE = ImageSpec(size=(24, 32), resize=36, mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
WORDS = ("[PAD]", "[UNK]", "the", "cat", "sat", "on", "mat")


class Served:
    """Answers once it is entered; at the end it is told to stop, and must end well."""

    def __init__(self, plan: Path, *options: object, local: bool = True, **environ: str) -> None:
        which = ["--local"] if local else []
        self.running = Running(["serve", plan, *which, "--port", 0, "--json", *options], **environ)
        self.url = ""

    def __enter__(self) -> Served:
        deadline = time.monotonic() + DEADLINE_S
        while not self.running.text()[0].endswith("\n"):
            assert self.running.process.poll() is None, self.running.text()
            assert time.monotonic() < deadline, self.running.text()
            time.sleep(0.02)
        self.url = loads(self.running.text()[0])["url"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running.process.poll() is None:
            ended = self.stop()
            if error is None:
                ended.expect(0)
                assert "Traceback" not in ended.err, ended.err

    def stop(self, number: int = signal.SIGTERM) -> Ended:
        os.kill(self.running.process.pid, number)
        return self.running.wait()

    def post(self, path: str, *, json: Any = None, **values: Any) -> httpx.Response:
        """`json`: with escapes, so that half a character can be sent."""
        if json is not None:
            values["content"] = dumps(json)
            values["headers"] = {"content-type": "application/json", **values.get("headers", {})}
        return httpx.post(f"{self.url}{path}", timeout=60, **values)

    def get(self, path: str, **values: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=60, **values)


def expect_error(response: httpx.Response, status: int, *parts: str) -> dict[str, Any]:
    """The error of an answer: one line, with these parts in it."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert "\n" not in error["message"]
    assert "Traceback" not in response.text
    for part in parts:
        assert part in error["message"], error
    return error


class _Normalise(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGE.mean, IMAGE.std))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        return ((pixels.float() / 255 - self.mean) / self.std,)


def image_plan(folder: Path) -> launch_plans.Written:
    """Pixels as bytes, and the same normalised."""
    image = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8)
    parts = [launch_plans.Part(_Normalise(), ["y"])]
    return launch_plans.write(folder, {"pixels": image}, parts, data=DataSpec(kind="image", image=IMAGE))


class _Sums(torch.nn.Module):
    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor]:
        kept = (ids * mask).float()
        return (torch.stack([kept.sum(1), mask.float().sum(1), kept[:, 0]], dim=1),)


def embedding_plan(folder: Path) -> launch_plans.Written:
    """Of a sentence of at most five words: the sum of its ids, their number, the first of them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    text = TextSpec(tokenizer="tokenizer.json", sha256=file_sha256(folder / "tokenizer.json"), max_length=5,
                    ids="ids", mask="mask")  # fmt: skip
    inputs = {"ids": torch.randint(0, 7, (4, 5)), "mask": torch.ones(4, 5, dtype=torch.int64)}
    parts = [launch_plans.Part(_Sums(), ["embedding"]), launch_plans.Part(launch_plans.Scale(1.0), ["embedding"])]
    return launch_plans.write(folder, inputs, parts, data=DataSpec(kind="text", text=text))
