"""The items that a compilation's precisions are judged on, each made when it is asked for first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path

from edgecompile.artifacts.assemble import tensor_specs
from edgecompile.artifacts.compiled_stage import CompiledPipeline, StageWriter
from edgecompile.config.request import CompileRequest
from edgecompile.contract.closed_sets import Precision
from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import KnownModel, LabelledItem, items_reader
from edgecompile.contract.plan import DataSpec, ModelInfo
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.chain.fingerprint import chain_fingerprint
from edgecompile.frontend.chain.units import Chain
from edgecompile.frontend.golden.decisions import check_decisions
from edgecompile.frontend.golden.eager import Batch
from edgecompile.frontend.golden.golden_items import Reference, make_reference
from edgecompile.precision.accuracy import Precise, check_kernels, check_precision, nothing_lowered
from edgecompile.precision.calibration import calibrate
from edgecompile.precision.sensitivity import Sensitivities
from edgecompile.precision.trial import FEW_ITEMS, Trial, golden_trial, items_trial, messages_of
from edgecompile.profile.profile_file import profile_path

__all__ = ["Judged"]


class Judged:
    def __init__(
        self, request: CompileRequest, flat: FlatModel, golden: Batch, chain: Chain, data: DataSpec, weights: str,
        padding: Mapping[str, float], step: Callable[[str], AbstractContextManager[object]],
    ) -> None:  # fmt: skip
        """`weights`: where they came from, in words."""
        self._request, self._flat, self._golden, self._chain, self._step = request, flat, golden, chain, step
        self._items: dict[Path, list[LabelledItem]] = {}
        self._model = KnownModel(
            model=ModelInfo(
                name=request.model.spec.name, microbatch=request.microbatch, num_parameters=0, weights=weights,
                capture=request.capture.method.value, dims=dict(chain.captured.dims), padding=dict(padding),
            ),
            inputs=tensor_specs(chain.boundaries[0]), outputs=tensor_specs(chain.boundaries[-1]), data=data,
        )  # fmt: skip

    @cached_property
    def reference(self) -> Reference:
        """What the eager model makes of the golden items."""
        with self._step("run the eager model on golden items"):
            reference = make_reference(self._flat, self._golden, self._request.microbatch)
            check_decisions(self._chain.captured, self._golden, self._request.microbatch)
        return reference

    @cached_property
    def golden(self) -> Trial:
        size = self._chain.boundaries[0].tensors[0].shape[0]
        return golden_trial(self.reference, self._chain.captured.output_names, size, self._model.data.scores)

    @cached_property
    def items(self) -> Trial | None:
        """The user's own; None: none were given.

        Raises:
            UserError: they cannot be read, or the model fails on them.
        """
        path = self._request.precision.items
        if path is None:
            return None
        with self._step(f"run the eager model on {path.name}"):
            items = self._read(path, "accuracy.items")
            try:
                return items_trial(items, _told(items, path), self._model, self._flat)
            except UserError as error:
                raise UserError(f"{path}: {error}", key="accuracy.items") from error

    def calibrate(self) -> tuple[str, ...]:
        """Keeps the ranges of activations with the chain, where items were given for it; returns a note for the plan.

        Raises:
            UserError: they cannot be read, or the model fails on them.
        """
        path = self._request.precision.calibration
        if path is None:
            return ()
        with self._step(f"calibrate on {path.name}"):
            items = self._read(path, "precision.calibration")
            count = calibrate(self._chain, messages_of(items, self._model)[0])
        if not count:
            return ("precision.calibration changes nothing: the model has none of the convolutions that it is for",)
        convolutions = f"{count} convolution{'s' if count > 1 else ''}"
        return (f"precision: activations of {convolutions} calibrated on {_told(items, path)}",)

    def _read(self, path: Path, key: str) -> list[LabelledItem]:
        """Once, where calibration and accuracy are of the same items."""
        try:
            if path not in self._items:
                asked = self._request.precision
                self._items[path] = items_reader()(self._model, self._request.folder, path, asked.most_items)
            return self._items[path]
        except UserError as error:
            raise UserError(str(error), key=key) from error

    @property
    def trial(self) -> Trial:
        """The items that the budget is of."""
        return self.items or self.golden

    def costs(self) -> Sensitivities:
        """What each module costs alone, on the first of these items."""
        request, calibrated = self._request, self._request.precision.calibration
        return Sensitivities(
            self._chain, self.trial.first(FEW_ITEMS), request.precision.keep,
            profile_path(request.profile.folder, request.model.spec.name, "sensitivity"), request.model.spec.name,
            chain_fingerprint(self._chain, request.microbatch), "" if calibrated is None else calibrated.name,
            self._step,
        )  # fmt: skip

    def precise(self, request: CompileRequest, writer: StageWriter, pipelines: Sequence[CompiledPipeline]) -> Precise:
        """
        Args:
            request: with the precisions that were chosen.

        Raises:
            UserError: the shards break the budget.
        """
        if all(stage.precision is Precision.FP32 for pipeline in pipelines for stage in pipeline.stages):
            return Precise(notes=nothing_lowered(self._chain, request.cluster, request.precision.keep))
        golden, items = self.golden, self.items
        with self._step("measure what the precision costs"):
            found = check_precision(writer, pipelines, golden, items, self._request.precision)
            for pipeline in pipelines:
                prepack = self._request.runtime.prepack
                check_kernels(writer, pipeline, self.trial, self._request.precision, prepack)
        return found


def _told(items: Sequence[LabelledItem], path: Path) -> str:
    return f"{len(items)} item{'s' if len(items) != 1 else ''} of {path.name}"
