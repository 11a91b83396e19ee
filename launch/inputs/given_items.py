"""Items that an application holds, as the model's inputs: arrays, sentences, images."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.model_facts import ModelFacts
from edgelaunch.common.varying import Varying
from edgelaunch.inputs.fitting import fit, fit_json

if TYPE_CHECKING:
    from edgelaunch.inputs.text import Encoder

__all__ = ["GivenItems"]


class GivenItems:
    """Any number of threads may ask at once."""

    def __init__(self, plan: ModelFacts, folder: Path) -> None:
        """`folder`: the plan's, where the tokenizer lies."""
        self._plan, self._folder = plan, folder
        self._names = [spec.name for spec in plan.inputs]
        self._varying = Varying(plan)
        self._lock = threading.Lock()
        self._encoder: Encoder | None = None

    @property
    def varying(self) -> bool:
        """Whether items differ in size."""
        return bool(self._varying.names)

    def is_whole(self, value: Any) -> bool:
        """Whether it is an item by itself: a sentence or an image."""
        return isinstance(value, str) or _is_image(value)

    def arrays(self, value: Any, where: str, *, own: bool = False) -> dict[str, Any]:
        """An array for each input, without batch dimension, of an array, a mapping by name, a sentence or an image.

        Args:
            own: nobody else changes its arrays, so that those that fit need no copy.

        Raises:
            UserError: the model does not take it.
        """
        if isinstance(value, str) and self._plan.data.kind == "text":
            return self.sentence(value, where)
        if _is_image(value):
            return self.image(value, where)
        if not isinstance(value, Mapping):
            if len(self._names) > 1:
                raise UserError(f"{where}: the model takes {', '.join(self._names)}: give a dict by these names")
            value = {self._names[0]: value}
        self._check_names(value, where)
        ranges = self._varying.ranges
        arrays = {spec.name: fit(value[spec.name], spec, where, ranges, own=own) for spec in self._plan.inputs}
        self._varying.check(arrays, where)
        return arrays

    def lists(self, value: Mapping[str, Any], where: str) -> dict[str, Any]:
        """As arrays, of nested lists by name, as JSON has them."""
        self._check_names(value, where)
        ranges = self._varying.ranges
        arrays = {spec.name: fit_json(value[spec.name], spec, where, ranges) for spec in self._plan.inputs}
        self._varying.check(arrays, where)
        return arrays

    def sentence(self, text: str, where: str) -> dict[str, Any]:
        return self._named(where, lambda encoder: encoder.encode(text))

    def tokens(self, ids: list[int], where: str) -> dict[str, Any]:
        """Of token ids, the special ones included."""
        return self._named(where, lambda encoder: encoder.encode_tokens(ids))

    def num_tokens(self, arrays: Mapping[str, Any]) -> int:
        """Of a sentence's arrays."""
        return self.encoder().num_tokens(arrays)

    def image(self, image: Any, where: str) -> dict[str, Any]:
        """Of a PIL image, prepared as the plan says."""
        from edgelaunch.inputs.images import check_takes_images, fitted
        from edgelaunch.inputs.pixels import upright_rgb

        check_takes_images(self._plan, f"{where}: is an image")
        return {self._names[0]: fitted(self._plan, upright_rgb(image, where), where)}

    def image_file(self, data: bytes, where: str) -> dict[str, Any]:
        """Of the bytes of an image file."""
        from edgelaunch.inputs.images import check_takes_images, fitted
        from edgelaunch.inputs.pixels import decode_rgb

        check_takes_images(self._plan, f"{where}: is an image")
        return {self._names[0]: fitted(self._plan, decode_rgb(BytesIO(data), where), where)}

    def encoder(self) -> Encoder:
        """Raises UserError where the model takes no text, or the plan has no tokenizer."""
        from edgelaunch.inputs.text import Encoder

        with self._lock:
            if self._encoder is None:
                self._encoder = Encoder(self._plan, self._folder, "items")
            return self._encoder

    def _named(self, where: str, encode: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = encode(self.encoder())
        except UserError as error:
            raise UserError(f"{where}: {str(error).removeprefix('items: ')}") from None
        return found

    def _check_names(self, value: Mapping[str, Any], where: str) -> None:
        if set(value) != set(self._names):
            given = ", ".join(map(str, value)) or "nothing"
            raise UserError(f"{where}: has {given:.200}, the model takes {', '.join(self._names)}")


def _is_image(value: Any) -> bool:
    """An application that has one has imported PIL."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)
