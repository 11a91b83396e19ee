"""A causal language model of transformers as a step: rows of tokens in, the scores of each row's next token out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from edgecompile.contract.errors import UserError
from edgecompile.contract.generation import StateSpec
from edgecompile.execution.attention import bound, register_attention
from edgecompile.execution.slot_state import SlotState, slot_value

__all__ = ["FAR", "CausalStep", "causal_lm_of", "check_state"]

NAME = "edgecompile"
"""Of our attention, among those of transformers."""
_MOST_PROBED = 384
"""Positions at which a mask is looked at."""
_MOST_MIXED = 8
"""Tokens of which the last one is looked at: more than convolutions reach back."""
_ROUNDING = 1e-5
"""Of the largest score. Experts, which compute their tokens together, differ by 7e-7; tiny convolutions by 5e-3."""
FAR = 1e-4
"""Of the largest score: what rounding in float32 may change. SmolLM2's 30 layers change less than 3e-6."""
_HARMLESS = frozenset(
    {"dropout", "is_causal", "output_router_logits", "position_ids", "use_cache", "output_attentions", "cache_position",
     "output_hidden_states", "layer_idx", "training", "attention_dropout"}
)  # fmt: skip
"""Beside those that are read: what attention is given and may leave aside."""


class CausalStep(nn.Module):
    """Takes `input_ids` (rows, tokens), `positions` (rows, tokens), -1 behind a row's last token, and `slots` (rows,).

    Returns `logits` (rows, vocabulary), float32: of the token behind each row's last.
    """

    padding: Mapping[str, int] = {"positions": -1}
    """What stands behind a row's last token, where it is not 0."""

    def __init__(self, model: Any, context: int) -> None:
        """
        Args:
            model: a causal language model of transformers, in eval mode.
            context: the tokens that a sequence may have.

        Raises:
            UserError: its attention does not go through transformers' interface, or sees other tokens than those
                before, up to a window.
        """
        super().__init__()
        register_attention()
        _hold_frequencies(model, context)
        self.model = model
        self.weights_target = "model"
        _register_interface()
        most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(most, int) and 0 < most < context:
            raise UserError(f"invalid value {context} for generation.context: the model takes at most {most} tokens")
        self.context = context
        self._all_tokens = _all_tokens(model)
        self.windows = _windows(model, context)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        model, valid = self.model, positions >= 0
        last = valid.sum(-1).clamp(min=1) - 1
        step = _Step(positions, slots, self.windows)
        with _running(step), _rows_selected(model.get_output_embeddings(), last):
            result = model(
                input_ids=input_ids, attention_mask=valid.to(torch.int64), position_ids=positions.clamp(min=0),
                use_cache=False, **self._all_tokens,
            )  # fmt: skip
        return {"logits": result.logits.squeeze(1).to(torch.float32), "slots": slots}

    def generated(self, prompt: torch.Tensor, count: int) -> list[int]:
        """What transformers' generate() makes of a prompt (1, tokens), greedily: so many tokens, whichever they are."""
        with self._of_transformers(), torch.no_grad():
            settings = {"do_sample": False, "max_new_tokens": count, "min_new_tokens": count, "use_cache": True,
                        "eos_token_id": None, "pad_token_id": 0, "num_beams": 1, "repetition_penalty": 1.0,
                        "no_repeat_ngram_size": 0, "forced_bos_token_id": None, "forced_eos_token_id": None,
                        "suppress_tokens": None, "begin_suppress_tokens": None, "bad_words_ids": None}  # fmt: skip
            result = self.model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        return [int(number) for number in result[0, prompt.shape[1] :]]

    def scores_of(self, tokens: tuple[int, ...], count: int) -> torch.Tensor:
        """The scores of what follows each of the last so many tokens, (count, vocabulary), as transformers has them,
        with the positions that its generate() gives."""
        with self._of_transformers(), torch.no_grad():
            ids, positions = torch.tensor([tokens]), torch.arange(len(tokens)).unsqueeze(0)
            result = self.model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=count)
        scores: torch.Tensor = result.logits[0, -count:].to(torch.float32)
        return scores

    @contextmanager
    def _of_transformers(self) -> Iterator[None]:
        """The model as transformers runs it."""
        self.model.set_attn_implementation("sdpa" if self.model._supports_sdpa else "eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(NAME)


def causal_lm_of(cls: Any, config: Any, context: int) -> CausalStep:
    """A model of random weights.

    Raises:
        UserError: as CausalStep; or the class has no scores of a next token.
    """
    config = config.__class__.from_dict({**config.to_dict(), "use_cache": False})
    config._attn_implementation = NAME
    _register_interface()
    try:
        model = cls._from_config(config, dtype=torch.float32, attn_implementation=NAME)
    except (ValueError, TypeError, KeyError) as error:
        raise _no_interface(cls, error) from None
    model = model.float().eval()
    if model.get_output_embeddings() is None:
        raise UserError(f"{cls.__name__}: it has no output embeddings, which score the next token")
    return CausalStep(model, context)


def _all_tokens(model: Any) -> dict[str, Any]:
    """For a model that drops tokens before its last layers, where those keep no keys and values of their own (Gemma 4):
    what makes it leave all in, as transformers' masks are cut for that, and ours are none."""
    drops = any(hasattr(module, "_maybe_slice_kv_shared_inputs") for module in model.modules())
    return {"logits_to_keep": slice(None)} if drops else {}


def check_state(module: nn.Module) -> None:
    """Once a CausalStep has its weights: a token hears of those before it by attention alone, which slots keep, and its
    place in a text is what it is told.

    A convolution or a recurrence over tokens has a state of its own, and steps without it would be wrong. So would they
    be where a model numbers the tokens of each message itself.

    Raises:
        UserError: with attention that gives nothing, other tokens before the last change its scores; or a text that
            comes in parts is scored otherwise than transformers scores it as a whole.
    """
    if not isinstance(module, CausalStep) or module.context < 2:
        return
    count = min(_MOST_MIXED, module.context)
    vocabulary = int(module.model.config.get_text_config().vocab_size)
    ids = torch.arange(count).unsqueeze(0) % vocabulary
    other = (ids + 1) % vocabulary
    other[:, -1] = ids[:, -1]
    positions, slots = torch.arange(count).unsqueeze(0), torch.zeros(1, dtype=torch.int64)
    nothing = _Nothing()
    with torch.no_grad(), bound(nothing):
        one, two = (module(tokens, positions, slots)["logits"] for tokens in (ids, other))
    if float((one - two).abs().max()) > _ROUNDING * float(one.abs().max()):
        raise UserError(
            f"{type(module.model).__name__}: tokens reach those behind them by more than attention, as by a "
            "convolution or a recurrence, whose state no slot keeps: take a model of attention alone"
        )
    ids = torch.randint(0, vocabulary, (1, count), generator=torch.Generator().manual_seed(0))
    far = _far_in_parts(module, ids, SlotState(tuple(nothing.seen.values()), 1, count))
    if far > FAR:
        raise UserError(
            f"{type(module.model).__name__}: a text that comes in parts, with the positions of its tokens, is scored "
            f"otherwise than transformers scores it as a whole, by {far:.1g} of the largest score: it numbers tokens "
            "in a way of its own, or keeps more of them than keys and values: take another model"
        )


def _far_in_parts(step: CausalStep, ids: torch.Tensor, state: SlotState) -> float:
    """How far its scores are from those of transformers, over the largest of these: half of a text at once, then a
    token, then the rest. `ids`: (1, tokens)."""
    count, half = ids.shape[1], ids.shape[1] // 2
    wanted, far = step.scores_of(tuple(ids[0].tolist()), count), 0.0
    for begin, end in ((0, half), (half, half + 1), (half + 1, count)):
        if begin == end:
            continue
        positions, slots = torch.arange(begin, end).unsqueeze(0), torch.tensor([slot_value(1, 0, 1)])
        with torch.no_grad(), bound(state.step(slots, positions)):
            scores = step(ids[:, begin:end], positions, slots)["logits"][0]
        far = max(far, float((scores - wanted[end - 1]).abs().max()))
    return far / float(wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def _hold_frequencies(model: Any, context: int) -> None:
    """Rotary embeddings that change with the length of a text keep those of short ones, where no text is longer.

    Raises:
        UserError: a text may be longer, and what is kept of its tokens would be of other frequencies.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is None or not hasattr(module, "config"):
            continue
        for layer, kind in kinds.items() if isinstance(kinds, dict) else ((None, kinds),):
            if kind != "longrope" and "dynamic" not in str(kind):
                continue
            given = getattr(module.config, "rope_parameters", None) or {}
            most = (given[layer] if layer is not None else given).get("original_max_position_embeddings")
            most = most if kind == "longrope" else getattr(module, "original_max_seq_len", most)
            if isinstance(most, int) and context > most:
                raise UserError(
                    f"invalid value {context} for generation.context: the model's rotary embedding ({kind}) is another "
                    f"one for a text of more than {most} tokens, and keys that are kept would be of the wrong one: at "
                    f"most {most}"
                )
            if layer is None:
                module.rope_type = "default"
            else:
                module.rope_type = {**module.rope_type, layer: "default"}


class _Nothing:
    """Keys and values of which nothing is seen."""

    def __init__(self) -> None:
        self.seen: dict[int, StateSpec] = {}
        """What would be kept, by the call of attention."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, *_: Any) -> torch.Tensor:
        self.seen[layer] = StateSpec(
            unit=0, layer=layer, groups=k.shape[1], key_size=k.shape[-1], value_size=v.shape[-1]
        )
        rows, heads, tokens, _size = q.shape
        return q.new_zeros(rows, tokens, heads, v.shape[-1])


# --- attention -------------------------------------------------------------------------------------------------------


class _Step:
    """What attention needs of the message beside its own arguments."""

    def __init__(self, positions: torch.Tensor, slots: torch.Tensor, windows: list[int]) -> None:
        self.positions, self.slots, self.windows = positions, slots, windows
        self.calls = 0


class _Look(_Step):
    """Collects the windows."""

    def __init__(self, context: int) -> None:
        super().__init__(torch.empty(0), torch.empty(0), [])
        self.context = context


_RUNNING: list[_Step] = []


@contextmanager
def _running(step: _Step) -> Iterator[None]:
    _RUNNING.append(step)
    try:
        yield
    finally:
        _RUNNING.pop()


@contextmanager
def _rows_selected(head: nn.Module, last: torch.Tensor) -> Iterator[None]:
    """The head scores each row's last token alone."""

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states = args[0]
        index = last.reshape(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return (states.gather(1, index), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


class _Mask:
    """Stands for a mask, on its way from transformers' mask function to its attention function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function


def _register_interface() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(*args: Any, mask_function: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    from transformers.masking_utils import causal_mask_function

    return _Mask(mask_function or causal_mask_function)


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **given: Any
) -> tuple[torch.Tensor, None]:
    assert _RUNNING, "attention outside of a step"
    step = _RUNNING[-1]
    scale = given.pop("scaling", None)
    softcap, sinks = given.pop("softcap", None), given.pop("s_aux", None)
    window = given.pop("sliding_window", None)
    unknown = sorted(name for name, value in given.items() if value is not None and name not in _HARMLESS)
    if isinstance(step, _Look):
        if unknown:
            raise UserError(f"{type(module).__name__}: its attention takes {', '.join(unknown)}, which is unknown here")
        if getattr(module, "is_causal", True) is False or not isinstance(attention_mask, _Mask):
            raise UserError(f"{type(module).__name__}: its attention is not causal, or makes its mask itself")
        step.windows.append(_window_of(attention_mask, window, len(step.windows), step.context))
        return query.new_empty(*(query.shape[i] for i in (0, 2, 1)), value.shape[-1]), None
    number, step.calls = step.calls, step.calls + 1
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    result = torch.ops.edgecompile.attend(
        query, key, value, step.positions, step.slots, number, scale, step.windows[number], float(softcap or 0.0), sinks
    )
    return result, None


def _windows(model: Any, context: int) -> list[int]:
    """Of each call of attention, in order; nothing is computed, unless the model has operators that need numbers."""
    with torch.no_grad():
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), _silent():
                return _looked(model, context)
        except UserError:
            raise
        except Exception:  # such as routing to experts
            try:
                return _looked(model, context)
            except UserError:
                raise
            except Exception as error:  # what a model does with a mask that is none of its own
                raise _no_interface(type(model), error) from None


def _looked(model: Any, context: int) -> list[int]:
    step = _Look(context)
    with _running(step):
        ids = torch.zeros(1, 2, dtype=torch.int64)
        model(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=ids, use_cache=False, **_all_tokens(model)
        )  # fmt: skip
    if not step.windows:
        raise _no_interface(type(model))
    return step.windows


def _no_interface(cls: Any, error: Exception | None = None) -> UserError:
    """`error`: what the model raised, perhaps for another reason."""
    said = "" if error is None else (str(error).splitlines() or [""])[0]
    if _Mask.__name__ in said:
        why = " (it computes with its mask itself)"
    elif error is None or NAME in said:
        why = ""
    else:
        why = f" ({type(error).__name__}: {said})"
    return UserError(
        f"{cls.__name__}: it does not attend through transformers' AttentionInterface, or not through that alone, so "
        f"that nothing tells where its keys and values are{why}"
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch logs of operators that have no result for shapes alone."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _window_of(mask: _Mask, given: int | None, number: int, context: int) -> int:
    """How many tokens back a token sees, itself included; 0: all of the context.

    Raises:
        UserError: it sees others.
    """
    with unset_fake_temporarily():
        places = sorted({*range(min(context, 64)), *torch.linspace(0, context - 1, _MOST_PROBED).long().tolist()})
        queries, keys, zero = torch.tensor(places).unsqueeze(1), torch.arange(context).unsqueeze(0), torch.tensor(0)
        seen = mask.function(zero, zero, queries, keys).expand(len(places), context)
        back = seen.sum(-1)
        window = int(back.max())
        ahead = queries - keys
        if not torch.equal(seen, (ahead >= 0) & (ahead < window)):
            raise UserError(
                f"attention {number} of the model sees neither all tokens before nor those of a sliding window: "
                "such a mask is not supported"
            )
    if given is not None and given < context and given != window:
        raise UserError(f"attention {number} of the model has the sliding window {given}, and its mask {window}")
    return 0 if window >= context else window
