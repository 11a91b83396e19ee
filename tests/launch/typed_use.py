"""What mypy makes of an application that uses the pipeline; `make types` checks it, nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

from edgelaunch import Pipeline, RankFailedError, UserError, __version__

Array = npt.NDArray[Any]


def use(frames: list[Array]) -> Array | None:
    assert_type(__version__, str)
    try:
        with Pipeline("outputs/plan.yaml", local=True) as pipeline:
            assert_type(pipeline, Pipeline)
            assert_type(pipeline.stream(frames), Iterator[Array | dict[str, Array]])
            assert_type(pipeline.map(frames, timeout=3), Iterator[Array | dict[str, Array]])
            assert_type(pipeline.submit("a sentence"), Future[Array | dict[str, Array]])
            assert_type(pipeline.ready, bool)
            result = pipeline({"x": np.stack(frames)})
            assert_type(result, Array | dict[str, Array])
            return result if isinstance(result, np.ndarray) else None
    except UserError as error:
        assert_type(error, UserError)
    except RankFailedError as error:
        assert_type(error, RankFailedError)
    return None
