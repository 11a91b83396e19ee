"""The next token is chosen as transformers' own processors would have it, by seed and place alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from edgecompile.contract.errors import UserError
from edgecompile.execution import row_kernels
from edgelaunch.generation.token_choice import Sampling, choose

COUNT, DRAWS = 20, 3000
SAMPLINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.3),
    Sampling(temperature=5.0, top_k=4),
    Sampling(temperature=1.0, top_p=0.6),
    Sampling(temperature=2.0, top_p=0.9, top_k=12, repetition_penalty=1.7),
    Sampling(temperature=0.8, repetition_penalty=2.5),
]


def candidates(seed: int, count: int = COUNT) -> tuple[Any, Any]:
    """Scores, the largest first, some of them negative; and the tokens."""
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.normal(0.5, 2.0, count).astype(np.float32))[::-1].copy()
    return scores, rng.permutation(1000)[:count].astype(np.int64)


def wanted(scores: Any, ids: Any, sampling: Sampling, before: list[int]) -> Any:
    """The probability of each candidate, as transformers has it."""
    from transformers import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    seen = [place for place, token in enumerate(ids) if token in before]
    given, values = torch.tensor([seen], dtype=torch.int64), torch.tensor(scores).double().unsqueeze(0)
    processors: list[Any] = [RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)] if seen else []
    if sampling.temperature:
        processors += [TemperatureLogitsWarper(sampling.temperature), TopKLogitsWarper(sampling.top_k)]
        processors += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    for process in processors:
        values = process(given, values)
    return values.softmax(-1)[0].numpy()


@pytest.mark.parametrize("case", range(len(SAMPLINGS)))
def test_draws_are_distributed_as_transformers_has_it(case: int) -> None:
    sampling = SAMPLINGS[case]
    scores, ids = candidates(case)
    before = [int(token) for token in ids[[0, 3, 7]]] + [5000]
    shares = wanted(scores, ids, sampling, before)
    drawn = Counter(choose(scores, ids, _seeded(sampling, seed), before, 17) for seed in range(DRAWS))
    assert set(drawn) <= {int(token) for token in ids[shares > 0]}
    for token, share in zip(ids.tolist(), shares, strict=True):
        spread = 5 * (share * (1 - share) / DRAWS) ** 0.5 + 1e-3
        assert abs(drawn[token] / DRAWS - share) < spread, (token, share, drawn[token])


@pytest.mark.parametrize("penalty", [1.0, 1.3, 2.4])
def test_greedy_choice_is_the_best_after_the_penalty(penalty: float) -> None:
    sampling = Sampling(repetition_penalty=penalty)
    for seed in range(50):
        scores, ids = candidates(seed)
        before = [int(token) for token in ids[::3]]
        best = int(ids[int(np.argmax(wanted(scores, ids, sampling, before)))])
        assert choose(scores, ids, sampling, before, seed) == best


def test_seed_and_place_alone_decide() -> None:
    scores, ids = candidates(0)
    sampling = Sampling(temperature=3.0, seed=-5)
    tokens = [choose(scores, ids, sampling, [], place) for place in range(100)]
    assert tokens == [choose(scores.copy(), ids.copy(), sampling, [1, 2], place) for place in range(100)]
    assert len(set(tokens)) > 5
    assert tokens != [choose(scores, ids, _seeded(sampling, 6), [], place) for place in range(100)]
    places = Counter(choose(scores, ids, sampling, [], place) for place in range(DRAWS))
    share = wanted(scores, ids, sampling, [])
    assert abs(places[int(ids[0])] / DRAWS - share[0]) < 0.05  # places draw as seeds do


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.4])
def test_rounding_of_scores_changes_next_to_no_draw(top_p: float) -> None:
    """Ranks that are lost, and other rows of a message, change the last digits of scores."""
    sampling, rng = Sampling(temperature=1.0, top_p=top_p), np.random.default_rng(1)
    changed = 0
    for place in range(DRAWS):
        scores, ids = candidates(place % 97)
        if top_p == 1.0:
            scores[1::2] = scores[:-1:2]  # pairs of equal ones, which change places
        rounded = (scores + rng.uniform(-1e-4, 1e-4, len(scores))).astype(np.float32)
        order = np.argsort(-rounded, kind="stable")
        changed += choose(scores, ids, sampling, [], place) != choose(rounded[order], ids[order], sampling, [], place)
    assert changed <= 0.001 * DRAWS


def test_one_candidate_is_chosen_whatever_is_asked() -> None:
    scores, ids = candidates(3)
    for sampling in (
        Sampling(temperature=100.0, top_k=1), Sampling(temperature=100.0, top_p=5e-324), Sampling(temperature=1e-3),
        Sampling(temperature=5e-324), Sampling(temperature=1e-300, top_p=0.5),
    ):  # fmt: skip
        assert {choose(scores, ids, _seeded(sampling, seed), [], seed) for seed in range(30)} == {int(ids[0])}
    assert choose(scores[:1], ids[:1], Sampling(temperature=1.0, top_k=50), [], 0) == int(ids[0])


@pytest.mark.parametrize("seed", range(5))
def test_a_penalty_draws_none_that_transformers_would_not(seed: int) -> None:
    """Candidates that fall behind the last one: tokens that were not sent may be likelier."""
    scores, ids = candidates(seed, 60)
    sampling = Sampling(temperature=20.0, top_k=COUNT, repetition_penalty=5.0)
    before = [int(token) for token in ids[:COUNT:3]]
    likely = wanted(scores, ids, sampling, before)
    allowed = {int(token) for token, share in zip(ids, likely, strict=True) if share > 0}
    drawn = {choose(scores[:COUNT], ids[:COUNT], sampling, before, place, whole=False) for place in range(500)}
    assert drawn <= allowed
    assert drawn >= {int(token) for token in ids[:COUNT] if token not in before}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalty_that_puts_all_candidates_behind_others_tells_so(temperature: float) -> None:
    scores, ids = np.array([3.0, 2.5, 2.0], np.float32), np.array([4, 5, 6])
    sampling = Sampling(temperature=temperature, repetition_penalty=2.0, top_k=1)
    assert choose(scores, ids, sampling, [4, 5, 6], 0, whole=False) is None
    assert choose(scores, ids, sampling, [4, 5, 6], 0, whole=True) == 4
    assert choose(scores, ids, sampling, [4, 5], 0, whole=False) == 6


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -0.1}, "for temperature: expected 0 or more, at most 100"),
        ({"temperature": float("nan")}, "invalid value nan for temperature"),
        ({"temperature": float("inf")}, "invalid value inf for temperature"),
        ({"top_p": 0.0}, "for top_p: expected more than 0, at most 1"),
        ({"top_p": 1.01}, "for top_p"),
        ({"repetition_penalty": 0.9}, "for repetition_penalty: expected 1 or more, at most 100"),
        ({"top_k": 0}, "for top_k: expected 1 or more, at most 64"),
        ({"top_k": 65}, "(the plan keeps as many candidates: generation.candidates)"),
        ({"seed": 1 << 63}, "for seed"),
    ],
)
def test_values_that_are_not_allowed(values: dict[str, Any], said: str) -> None:
    Sampling().check(64)
    with pytest.raises(UserError) as caught:
        Sampling(**values).check(64, "here")
    assert str(caught.value).startswith("here: ")
    assert said in str(caught.value)


def _seeded(sampling: Sampling, seed: int) -> Sampling:
    from dataclasses import replace

    return replace(sampling, seed=seed)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("count", [1, 5, 30, 64])
def test_of_equal_scores_the_least_id_is_chosen_as_generate_does(
    count: int, monkeypatch: pytest.MonkeyPatch, *, native: bool
) -> None:
    if not native:
        monkeypatch.setattr(row_kernels, "native_runs", lambda *_: False)
    logits = torch.zeros(4, 300)
    logits[1, 200:] = 1.0
    logits[2] = torch.randn(300, generator=torch.Generator().manual_seed(1)).round()
    logits[3, [7, 250]] = 2.0
    scores, ids, log_sums = row_kernels.candidates(logits, count)
    torch.testing.assert_close(log_sums, logits.logsumexp(-1))
    assert torch.equal(scores, logits.gather(1, ids))
    assert all(len(set(row)) == count for row in ids.tolist())
    for row in range(4):
        chosen = choose(scores[row].numpy(), ids[row].numpy(), Sampling(), [5], 1)
        assert chosen == int(logits[row].argmax())


def test_scores_that_are_no_numbers_end_no_run() -> None:
    nothing = np.full(3, np.nan, np.float32)
    assert choose(nothing, np.array([7, 8, 9]), Sampling(), [5], 1) in (7, 8, 9)
