"""Measures what an item costs the data host: a stand-in for the launcher's feeding, and a tokenizer of words.

The launcher is not there when a model is profiled. So what it does with an item is done here with the same calls of
numpy, torch and threading, in one thread and again and again. A run's threads hand each item on to another and find
their caches cold: it takes them five times as long (MiniLM on one core of an AMD EPYC, 330 sentences of ten tokens a
second: 0.085 ms of the feeder's and the collector's threads an item, where the stand-in takes 0.018, and 0.091 of the
one that reads and tokenises, where it takes 0.016).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import torch

from edgecompile.execution.row_kernels import candidates
from edgecompile.profile.profile_file import Cost, TextCost

__all__ = ["measure_candidates", "measure_items", "measure_text"]

_LENGTH, _WIDTH, _ITEMS = 16, 384, 16
_ROUNDS = 30
_WORDS = (8, 64)
_ROWS = (1, 8)
_AS_LONG = 5
"""A run takes so many times what is measured here."""


def measure_items() -> float:
    """CPU seconds of an item: its two arrays into a message's tensors, its row out of a result, and the bookkeeping."""
    arrays = {name: np.arange(_LENGTH, dtype=np.int64) for name in ("ids", "mask")}
    message = {name: torch.zeros(_ITEMS, _LENGTH, dtype=torch.int64) for name in arrays}
    result, kept = torch.zeros(_ITEMS, _WIDTH), list[bytes]()
    changed = threading.Condition()

    def feed() -> None:
        for place in range(_ITEMS):
            began = time.perf_counter_ns()
            with changed:
                changed.notify_all()
            for name, tensor in message.items():
                row = tensor[place]
                row[: _LENGTH - 2].copy_(torch.from_numpy(arrays[name][: _LENGTH - 2]))
                row[_LENGTH - 2 :].fill_(0)
            with changed:
                changed.notify_all()
            own = result[place].clone().numpy()
            kept.append(own.tobytes())
            with changed:
                changed.notify_all()
            time.perf_counter_ns() - began
        kept.clear()

    return _AS_LONG * _median_s(feed) / _ITEMS


def measure_text() -> TextCost | None:
    """CPU seconds of tokenising a text, as BERT's tokenizer does it; None where the tokenizers package is not there."""
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    except ImportError:
        return None
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "word", "##ing", "time"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    seconds = []
    for count in _WORDS:
        text = " ".join(["time", "word", "wording"][index % 3] for index in range(count))

        def encode(given: str = text) -> None:
            for _ in range(_ITEMS):
                found = tokenizer.encode(given)
                for values in (found.ids, found.attention_mask):
                    np.asarray(values, dtype=np.int64)

        seconds.append(_AS_LONG * _median_s(encode) / _ITEMS)
    counts = [len(tokenizer.encode(" ".join(["time", "word", "wording"][i % 3] for i in range(n)))) for n in _WORDS]
    each_s = max(0.0, (seconds[1] - seconds[0]) / (counts[1] - counts[0]))
    return TextCost(fixed_cpu_s=max(0.0, seconds[0] - each_s * counts[0]), token_cpu_s=each_s)


def measure_candidates(vocabulary: int, count: int) -> Cost:
    """Seconds and CPU seconds of what the last stage makes of scores, and of each row of them: on one core."""
    times = []
    for rows in _ROWS:
        scores = torch.randn(rows, vocabulary)

        def choose(given: torch.Tensor = scores) -> None:
            with torch.inference_mode():
                candidates(given, min(count, vocabulary))

        times.append(_median_s(choose))
    each_s = max(0.0, (times[1] - times[0]) / (_ROWS[1] - _ROWS[0]))
    fixed_s = max(0.0, times[0] - each_s * _ROWS[0])
    return Cost(fixed_s=fixed_s, each_s=each_s, fixed_cpu_s=fixed_s, each_cpu_s=each_s)


def _median_s(run: Callable[[], None]) -> float:
    """Of this thread, which other threads may not disturb."""
    run()
    times = []
    for _ in range(_ROUNDS):
        begin = time.thread_time()
        run()
        times.append(time.thread_time() - begin)
    return sorted(times)[_ROUNDS // 2]
