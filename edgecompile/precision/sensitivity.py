"""Measures what a precision costs, of a whole pipeline and of each module alone; and keeps the latter in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import yaml

from edgecompile.artifacts.lowering import Lowering, LowWeights
from edgecompile.artifacts.shards import stage_module
from edgecompile.config.request import PrecisionRequest
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_ours
from edgecompile.contract.yaml_decode import decode, load_yaml
from edgecompile.frontend.capture.graphs import module_path
from edgecompile.frontend.chain.products import can_lower, is_kept
from edgecompile.frontend.chain.units import Chain
from edgecompile.precision.trial import Run, Score, Trial, chained

__all__ = ["Sensitivities", "SensitivityFile", "Span", "beyond_budget", "module_errors", "run_spans", "within_budget"]

_HEADER = "# Written by edgecompile: what each module costs in other precisions, each alone.\n"
_MAX_BYTES = 16 << 20
_ALIKE = 1e-3
"""Of their values: what outputs of the same model may differ by on another machine."""
_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Span:
    """Units of one stage, and the precision of its products."""

    first: int
    last: int
    precision: Precision


def beyond_budget(score: Score, trial: Trial, budget: float) -> dict[str, float]:
    """The errors that are larger than the budget, and than twice eager's own, by output."""
    return {name: error for name, error in score.error.items() if not error <= max(budget, trial.floor.get(name, 0.0))}


def within_budget(score: Score, trial: Trial, request: PrecisionRequest) -> bool:
    """Whether no output is farther from the model than the budget, or twice eager's own error; and enough agree."""
    if beyond_budget(score, trial, request.budget):
        return False
    return request.agreement is None or min(score.agreement.values(), default=1.0) >= request.agreement


def run_spans(chain: Chain, spans: Sequence[Span], low: LowWeights, keep: tuple[str, ...]) -> Run:
    """The model as a pipeline of these stages, with nothing between them, and without shards."""
    generic = chain.captured.sampling is not None
    stages = []
    for span in spans:
        module = stage_module(chain, span.first, span.last, generic=generic)
        stages.append(Lowering(precision=span.precision, weights=low, keep=keep).applied(module))
    return chained(stages)


def products_of(chain: Chain, spans: Sequence[Span], keep: Sequence[str]) -> dict[str, Precision]:
    """The modules whose products are in another precision than float32, with the one of their first unit."""
    root = chain.captured.graph_module
    found: dict[str, Precision] = {}
    for span in spans:
        for unit in chain.units[span.first : span.last + 1] if span.precision is not Precision.FP32 else ():
            for node in unit.nodes:
                if can_lower(node, root, span.precision) and not is_kept(node, keep):
                    found.setdefault(module_path(node), span.precision)
    return found


def module_errors(
    chain: Chain,
    spans: Sequence[Span],
    trial: Trial,
    low: LowWeights,
    keep: tuple[str, ...],
    *,
    output: str | None = None,
    most: int | None = None,
) -> dict[str, float]:
    """The squared error of each module whose products these spans lower, each alone in its precision.

    Args:
        output: whose error; None: the largest of all.
        most: at most so many modules are tried, from the first on.
    """
    modules = products_of(chain, spans, keep)
    whole = (0, len(chain.units) - 1)
    errors: dict[str, float] = {}
    for name in list(modules)[:most]:
        others = tuple(other for other in modules if other != name and not name.startswith(f"{other}."))
        span = Span(first=whole[0], last=whole[1], precision=modules[name])
        found = trial.score(trial.run(run_spans(chain, [span], low, (*keep, *others)))).error
        errors[name] = found[output] if output is not None else max(found.values(), default=0.0)
    return errors


@dataclass(frozen=True, kw_only=True)
class SensitivityFile:
    version: int
    model: str
    fingerprint: str
    """Of the captured units."""
    items: str
    keep: tuple[str, ...]
    outputs: tuple[float, ...]
    """Some of the values that the model makes of them: with other weights, or other items, they are others."""
    errors: dict[str, dict[str, float]]
    """By precision and module: the squared error of the output that suffers most."""


class Sensitivities:
    """What each module costs in a precision, measured when it is asked for first, and kept beside the profiles."""

    def __init__(self, chain: Chain, trial: Trial, keep: tuple[str, ...], path: Path, model: str, fingerprint: str,
                 calibrated: str, step: Callable[[str], AbstractContextManager[object]]) -> None:  # fmt: skip
        """
        Args:
            calibrated: the items that told the ranges of activations; empty: none did.
            step: says what is measured, while it is.
        """
        self._chain, self._trial, self._keep, self._path, self._step = chain, trial, keep, path, step
        first = [value.flatten()[:8] for message in trial.true for value in message if value.is_floating_point()]
        outputs = tuple(float(f"{value:.{_DIGITS}g}") for part in first for value in part.tolist())[:64]
        what = f"{trial.num_items} of {trial.what}" + (f", calibrated on {calibrated}" if calibrated else "")
        self._file = SensitivityFile(version=1, model=model, fingerprint=fingerprint, items=what, keep=keep,
                                     outputs=outputs, errors=self._kept(fingerprint, what, outputs))  # fmt: skip

    def of(self, precision: Precision) -> Mapping[str, float]:
        """By module. Raises UserError where another file has the place of ours."""
        if precision.value not in self._file.errors:
            span = Span(first=0, last=len(self._chain.units) - 1, precision=precision)
            with self._step(f"measure what each module costs in {precision.value}"):
                found = module_errors(self._chain, [span], self._trial, LowWeights(), self._keep)
            self._file.errors[precision.value] = {name: float(f"{error:.{_DIGITS}g}") for name, error in found.items()}
            self._write()
        return self._file.errors[precision.value]

    def _kept(self, fingerprint: str, what: str, outputs: tuple[float, ...]) -> dict[str, dict[str, float]]:
        """Those of the file, if it is of this model with these weights, and of the same items."""
        if not self._path.exists():
            return {}
        check_ours(self._path, _HEADER[:24], "sensitivity file", "choose another profile.folder")
        try:
            document = load_yaml(self._path, what="sensitivities", max_bytes=_MAX_BYTES, hint="")
            found = decode(SensitivityFile, document, where=str(self._path))
        except UserError:  # it is measured again
            return {}
        same = (found.version, found.fingerprint, found.items, found.keep) == (1, fingerprint, what, self._keep)
        alike = len(found.outputs) == len(outputs) and all(
            abs(one - other) <= _ALIKE * max(map(abs, outputs))
            for one, other in zip(found.outputs, outputs, strict=True)
        )
        return found.errors if same and alike else {}

    def _write(self) -> None:
        document = dict(vars(self._file)) | {"keep": list(self._keep), "outputs": list(self._file.outputs)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as temporary:
                temporary.write_text(_HEADER + yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        except OSError:  # without it they are measured again
            return
