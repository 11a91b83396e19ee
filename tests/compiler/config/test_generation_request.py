"""The generation option: which values it allows, and that models of other kinds have none."""

from __future__ import annotations

import pytest

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.config.generation_request import GenerationRequest, cache_of, generation_of
from edgecompile.config.request import request_of
from edgecompile.contract.errors import UserError


def asked(*overrides: str, model: str = "smollm2_135m") -> GenerationRequest | None:
    return generation_of(compose([f"model={model}", *overrides]))


def test_a_language_model_has_the_defaults() -> None:
    found = asked()
    assert found is not None
    assert (found.slots, found.context, found.chunk, found.tokenizer) == (4, 1024, 64, None)
    assert found.usual_context == found.prompt + found.tokens // 2


def test_other_models_have_none() -> None:
    assert asked(model="minilm") is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generation.slots=0", "generation.slots"),
        ("generation.slots=257", "generation.slots"),
        ("generation.context=1", "generation.context"),
        ("generation.chunk=1", "generation.chunk"),
        ("generation.chunk=4097", "generation.chunk"),
        ("generation.prompt=0", "generation.prompt"),
        ("generation.tokens=0", "generation.tokens"),
        ("generation.candidates=0", "generation.candidates"),
        ("generation.candidates=1025", "generation.candidates"),
        ("generation.cache=int8", "invalid value 'int8' for generation.cache: expected"),
        (
            "generation.context=255",
            "generation.prompt 128 and generation.tokens 128 are more than generation.context 255",
        ),
    ],
)
def test_values_that_are_not_allowed(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        asked(override)
    assert said in str(caught.value)


def test_a_context_that_is_just_enough() -> None:
    assert asked("generation.context=256") is not None


def test_a_measured_profile_is_asked_for_messages_of_all_slots() -> None:
    conf = compose(["model=smollm2_135m", "generation.slots=6", "profile=measured"])
    request = request_of(conf)
    assert (request.microbatch, request.profile.microbatch, request.auto_microbatch) == (6, 6, False)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ((), "fp32"),
        (("precision=auto",), "fp32"),
        *(((f"precision={name}",), "bf16") for name in ("bf16", "fp16", "int8", "int8_weights", "int4_weights")),
        (("precision=int8", "generation.cache=fp32"), "fp32"),
        (("generation.cache=bf16",), "bf16"),
        (("precision=int8", "generation.cache=auto"), "bf16"),
        (("devices=mixed_home", "devices.laptop_cpu.precision=int8"), "fp32"),
        (("devices=mixed_home", "precision=int8", "devices.laptop_cpu.precision=auto"), "fp32"),
        (("devices=mixed_home", "precision=int8", "devices.laptop_cpu.precision=bf16"), "bf16"),
    ],
)
def test_keys_and_values_are_rounded_where_everything_was_asked_to_be(overrides: tuple[str, ...], wanted: str) -> None:
    conf = compose(["model=smollm2_135m", *overrides])
    generation = generation_of(conf)
    assert generation is not None
    assert cache_of(generation, cluster_of(conf)).value == wanted
    assert request_of(conf).model.spec.cache.value == wanted
