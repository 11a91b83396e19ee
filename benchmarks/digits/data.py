"""scikit-learn's digits in five folds, as benchmarks/digits/train.py trains on them and others test on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

NUM_FOLDS = 5
SEED = 0


def weights_path(fold: int) -> Path:
    return Path(__file__).resolve().parent / f"fold{fold}.safetensors"


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """All images (1797, 1, 8, 8) float32, -1 to 1, and their labels (1797,) int64."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32))[:, None] / 8 - 1
    return images, torch.from_numpy(data.target.astype(np.int64))


def folds(labels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Indices of the images to train on and of those held out; the held-out ones of all folds are all images."""
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=SEED)
    for train, held_out in splitter.split(np.zeros(len(labels)), labels.numpy()):
        yield torch.from_numpy(train), torch.from_numpy(held_out)
