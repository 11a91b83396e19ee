"""Parameters of the OpenAI API's completions: what they mean here, and which of them are refused."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgelaunch.generation.text_calls import Prompt, TextOptions
from edgelaunch.serve.http.api_error import ApiError

__all__ = ["TextCall", "read_chat", "read_completion"]

COMPLETION_TOKENS = 16
"""What the OpenAI API gives where nothing is said."""
MOST_STOPS = 16
SEEDS = 1 << 62
READ = ("model", "stream", "stream_options", "n", "temperature", "top_p", "top_k", "repetition_penalty", "seed",
        "stop", "max_tokens", "ignore_eos")  # fmt: skip
IGNORED = ("user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
           "prompt_cache_retention")  # fmt: skip
"""They change no answer."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},), "logprobs": (False,), "best_of": (1,),
    "echo": (False,), "suffix": ("",), "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],),
    "function_call": ("none", "auto"), "response_format": ({"type": "text"},), "modalities": (["text"],),
    "top_logprobs": (0,), "audio": (), "prediction": (), "reasoning_effort": (), "verbosity": (),
    "web_search_options": (),
}  # fmt: skip
"""They would change the answer in a way that there is not here: allowed with these values, which mean nothing."""


@dataclass(frozen=True, kw_only=True)
class TextCall:
    """What is asked for: an answer to each prompt."""

    prompts: tuple[Prompt, ...]
    options: TextOptions
    stream: bool
    with_usage: bool
    """Whether a stream ends with how many tokens there were."""
    model: Any


def read_completion(asked: dict[str, Any]) -> TextCall:
    """Raises ApiError 400 where a parameter is wrong, unknown or not supported."""
    _check_names(asked, ("prompt",))
    value = asked.get("prompt")
    prompts: list[Any] = value if isinstance(value, list) and value and type(value[0]) is not int else [value]
    for prompt in prompts:
        tokens = isinstance(prompt, list) and prompt and all(type(item) is int for item in prompt)
        if not tokens and not isinstance(prompt, str):
            raise _wrong("prompt", "expected a string, a list of strings, token ids or a list of these")
    most = _whole(asked, "max_tokens")
    return _call(asked, tuple(prompts), COMPLETION_TOKENS if most is None else most)


def read_chat(asked: dict[str, Any], most: int) -> TextCall:
    """Likewise. `most`: tokens that an answer has where nothing is said."""
    _check_names(asked, ("messages", "max_completion_tokens"))
    given = [_whole(asked, key) for key in ("max_completion_tokens", "max_tokens")]
    tokens = next((value for value in given if value is not None), most)
    return _call(asked, (_messages(asked.get("messages")),), tokens)


def _check_names(asked: Mapping[str, Any], own: tuple[str, ...]) -> None:
    for key, value in asked.items():
        if key in (*own, *READ, *IGNORED) or value is None:
            continue
        if key not in NEUTRAL:
            raise ApiError(400, f"unknown parameter {key[:100]!r}", param=key[:100], code="unknown_parameter")
        if not any(value == neutral and type(value) is type(neutral) for neutral in NEUTRAL[key]) and not (
            isinstance(value, (int, float)) and not isinstance(value, bool) and value in _numbers(key)
        ):
            raise ApiError(400, f"{key} is not supported here: leave it out", param=key, code="unsupported_parameter")


def _numbers(key: str) -> list[int]:
    return [value for value in NEUTRAL[key] if type(value) is int]


def _call(asked: Mapping[str, Any], prompts: tuple[Prompt, ...], most: int) -> TextCall:
    if asked.get("n") not in (None, 1) or isinstance(asked.get("n"), bool):
        raise _wrong("n", "expected 1: ask as often as you want answers")
    stream_options = asked.get("stream_options")
    stream = _flag(asked, "stream")
    if stream_options is not None and not isinstance(stream_options, Mapping):
        raise _wrong("stream_options", "expected an object")
    if stream_options is not None and not stream:
        raise _wrong("stream_options", "only for a stream")
    stop = asked.get("stop")
    stops = [stop] if isinstance(stop, str) else [] if stop is None else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(one, str) for one in stops):
        raise _wrong("stop", f"expected a string or a list of at most {MOST_STOPS} strings")
    seed = _whole(asked, "seed")
    options = TextOptions(
        max_tokens=most, temperature=_number(asked, "temperature", 1.0), top_p=_number(asked, "top_p", 1.0),
        top_k=_whole(asked, "top_k"), repetition_penalty=_number(asked, "repetition_penalty", 1.0),
        seed=secrets.randbelow(SEEDS) if seed is None else seed, stop=tuple(one for one in stops if one),
        ignore_end=_flag(asked, "ignore_eos"),
    )  # fmt: skip
    with_usage = stream and stream_options is not None and _flag(stream_options, "include_usage")
    return TextCall(prompts=prompts, options=options, stream=stream, with_usage=with_usage, model=asked.get("model"))


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _wrong("messages", "expected a list of one or more {role, content}")
    found = []
    for index, message in enumerate(value):
        place = f"messages.{index}"
        if not isinstance(message, Mapping):
            raise _wrong(place, "expected an object with role and content")
        for key in message:
            if key not in ("role", "content", "name") and message[key] not in (None, [], {}):
                raise _wrong(f"{place}.{key[:100]}", "not supported here")
        role = message.get("role")
        if not isinstance(role, str):
            raise _wrong(f"{place}.role", "expected a string")
        content = _content(message.get("content"), f"{place}.content")
        found.append({"role": "system" if role == "developer" else role, "content": content})
    return found


def _content(value: Any, where: str) -> str:
    """A text, also where it comes in parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _wrong(where, "expected a string, or a list of parts of type text")
    for part in value:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise _wrong(where, "expected parts of type text alone")
    return "".join(part["text"] for part in value)


def _whole(asked: Mapping[str, Any], key: str) -> int | None:
    value = asked.get(key)
    if value is not None and type(value) is not int:
        raise _wrong(key, "expected a whole number")
    return value


def _number(asked: Mapping[str, Any], key: str, default: float) -> float:
    value = asked.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(key, "expected a number")
    try:
        return float(value)
    except OverflowError:
        raise _wrong(key, "the number is too large") from None


def _flag(asked: Mapping[str, Any], key: str) -> bool:
    value = asked.get(key)
    if value is not None and not isinstance(value, bool):
        raise _wrong(key, "expected true or false")
    return bool(value)


def _wrong(param: str, expected: str) -> ApiError:
    return ApiError(400, f"invalid value for {param}: {expected}", param=param)
