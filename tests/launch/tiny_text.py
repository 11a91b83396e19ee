"""A small tokenizer, and what a plan says of text generation with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edgecompile.contract.files.atomic_files import file_sha256
from edgecompile.contract.generation import Generation, TextPrediction

__all__ = ["CHATML", "SAMPLES", "generation", "write_byte_fallback", "write_byte_level"]

SAMPLES = (
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox does not.",
    "Grüße aus Köln! Ça va? Où est le café? Ärger und Öl.",
    "日本語のテキスト。これは短い文です。",
    "Emojis: 😀😀 👩‍👩‍👧 🏳️‍🌈 👍🏽 and a flag 🇩🇪.",
    "stop words: STOP. stopping, END. end of it.",
    "def f(x):\n    return x + 1\n",
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")


def write_byte_level(folder: Path) -> Path:
    """GPT-2's kind: every token is some bytes. A prompt begins with <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(_SPECIAL), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(SAMPLES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return _save(tokenizer, folder)


def write_byte_fallback(folder: Path) -> Path:
    """Llama's kind: a word begins with a mark for its space, and bytes stand for characters that are not known."""
    words = ["▁", "▁the", "▁dog", "the", "o", "x", "fo", "."]
    vocabulary = {word: number for number, word in enumerate([*_SPECIAL, "<unk>", *words])}
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in _SPECIAL])
    return _save(tokenizer, folder)


def _save(tokenizer: Tokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def generation(tokenizer: Path | None, **values: Any) -> Generation:
    """With this tokenizer, as a plan in its folder has it."""
    given: dict[str, Any] = {
        "slots": 2, "context": 64, "chunk": 8, "candidates": 64, "vocabulary": 400, "state": (), "prompt": 8,
        "tokens": 8, "predicted": TextPrediction(token_s=1, first_token_s=1, tokens_per_s=1, prompt_tokens_per_s=1),
    }  # fmt: skip
    if tokenizer is not None:
        given |= {"tokenizer": tokenizer.name, "sha256": file_sha256(tokenizer)}
    return Generation(**(given | values))
