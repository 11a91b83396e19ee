"""compile(): a module in hand, or an option's name, into a plan with its shards."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgecompile.api.given_inputs import Inputs, input_specs
from edgecompile.contract.closed_sets import AUTO
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.contract.quantities import format_items_rate, format_time

if TYPE_CHECKING:
    from torch import nn

    from edgecompile.api.composing import Cluster
    from edgecompile.config.request import CompileRequest

__all__ = ["CompiledPlan", "Progress", "compile"]

Progress: TypeAlias = "bool | Callable[[str], object]"
"""True: a line a step on standard error; or what is called with each step's name as it begins."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CompiledPlan(Plan):
    """The plan, with the place where it was written: `edgelaunch.Pipeline(plan)` takes it as it takes a path."""

    path: Path
    """Of plan.yaml, absolute. Shards and weights lie beside it."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        hosts = ", ".join(self.hosts[stage.rank].name for stage in self.stages)
        predicted = self.predicted
        return (
            f"<plan of {self.model.name}: {len(self.stages)} stage{'s' * (len(self.stages) != 1)} on {hosts}; "
            f"{format_items_rate(predicted.throughput_items_per_s)}, latency {format_time(predicted.latency_s)} "
            f"predicted; {self.path}>"
        )


def compile(
    module: nn.Module | str,
    inputs: Inputs = None,
    *,
    devices: Cluster | None = None,
    hosts: Cluster | None = None,
    microbatch: int | str = AUTO,
    output: str | os.PathLike[str] = "outputs",
    overrides: Sequence[str] = (),
    config_dir: str | os.PathLike[str] | None = None,
    progress: Progress = False,
    **keys: Any,
) -> CompiledPlan:
    """Compiles a model for a cluster, as the command `edgecompile` does, and writes plan.yaml with its shards.

    Nothing of the program that calls it changes: not the module (its copy is compiled, in eval mode), random numbers,
    torch's and Hydra's settings, the working directory, logging or signal handlers. Calls of several threads follow
    one another.

    Args:
        module: any nn.Module, or the name of a model option, such as "vit_base".
        inputs: for each argument of forward() an example or a spec, by name. An example is a tensor or array as
            forward() takes it: its first dimension is the batch, of any size. A spec is a mapping as in a model option,
            {"shape": [3, 224, 224], "dtype": "float32"}, of one item without the batch. One example alone, or a
            sequence, goes by the order of the arguments. None: the option's own.
        devices, hosts: the option's name, such as "jetson_cluster", or a mapping as its YAML file would hold, where a
            kind may also be the name of a board: devices={"pi": "raspberry_pi_5"}. hosts=None: as devices.
        microbatch: items of a message at most; "auto": what is predicted to be fastest.
        output: the folder for plan.yaml, shards and weights; made where it is missing.
        overrides: of the config, as on the command line: ["wire=fp16"].
        config_dir: a folder with options of your own, as --config-dir.
        progress: see Progress; by default nothing is printed.
        **keys: of the config, with Python's values: wire="fp16", seed=1,
            **{"schedule.constraints.exclude": ["nano"]}. The output field to keep is **{"model.output": "logits"}.

    Returns:
        The plan, which also knows its `path`. Times in it are seconds, sizes bytes.

    Raises:
        UserError: the config, the model, a file or the cluster does not allow it; one line that says where and why.
    """
    from edgecompile.api.undisturbed import undisturbed

    with undisturbed():
        request, recorded, given = _request(
            module, inputs, devices, hosts, microbatch, output, overrides, config_dir, keys
        )
        from edgecompile.commands.compile_command import compiled_below
        from edgecompile.pipeline import compile_model

        with compiled_below(request.folder):
            plan = compile_model(request, lambda name: _step(progress, name), recorded, given)
    values = {item.name: getattr(plan, item.name) for item in fields(Plan)}
    return CompiledPlan(**values, path=Path(os.path.abspath(request.folder / "plan.yaml")))


def _request(
    module: Any, inputs: Inputs, devices: Cluster | None, hosts: Cluster | None, microbatch: int | str,
    output: str | os.PathLike[str], overrides: Sequence[str], config_dir: str | os.PathLike[str] | None,
    keys: dict[str, Any],
) -> tuple[CompileRequest, tuple[str, ...], nn.Module | None]:  # fmt: skip
    """The request, what the plan records of it, and the module that is given."""
    from torch import nn

    from edgecompile.api.composing import composed_request, words_of_keys

    if isinstance(overrides, str):
        raise UserError(f"invalid value {overrides!r} for overrides: expected a list, such as ['wire=fp16']")
    if "output_dir" in keys or any(word.partition("=")[0].lstrip("+") == "output_dir" for word in overrides):
        raise UserError("output_dir is given by output=FOLDER here")
    if isinstance(module, str):
        model: dict[str, Any] = {"model": module}
        if inputs is not None:
            model["model.inputs"] = input_specs(inputs, _named_alone)
        given = None
    elif isinstance(module, nn.Module):
        model, given = _model_keys(module, inputs), module
    else:
        raise UserError(
            f"module is of type {type(module).__name__}", fix="expected an nn.Module, or the name of a model option"
        )
    words = words_of_keys({**model, "microbatch": microbatch, "output_dir": os.fspath(output)})
    folder = None if config_dir is None else os.fspath(config_dir)
    request, recorded = composed_request([*words, *words_of_keys(keys), *overrides], devices, hosts, folder)
    return request, recorded, given


def _named_alone(**names: Any) -> None:
    """The forward() of a model that is not built yet: its inputs go by name."""


def _model_keys(module: nn.Module, inputs: Inputs) -> dict[str, Any]:
    from edgecompile.models.preparation import unwrapped

    if inputs is None:
        raise UserError("inputs is missing", fix="give an example of each argument of forward(): {'x': tensor}")
    module = unwrapped(module)
    kind = type(module)
    return {
        "model": "custom",
        "model.name": kind.__name__,
        "model.build._target_": f"{kind.__module__}.{kind.__qualname__}",
        "model.inputs": input_specs(inputs, module.forward),
    }


@contextmanager
def _step(progress: Progress, name: str) -> Iterator[None]:
    if progress is True:
        print(f"  {name} ...", file=sys.stderr, flush=True)
    elif callable(progress):
        progress(name)
    yield
