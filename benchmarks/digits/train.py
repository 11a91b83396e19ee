"""Trains one small ViT a fold on scikit-learn's digits and writes its weights beside this file.

    python benchmarks/digits/train.py              # all five folds, some six minutes of one core
    python benchmarks/digits/train.py --folds 0

The model is the option vit_digits, as the compiler builds it. AdamW with a one-cycle schedule, dropout, weight
decay; no augmentation. Weights are stored in half precision: what is measured is what was stored. The same torch on the
same kind of machine writes the same files.
"""

from __future__ import annotations

import argparse
import sys

import torch
from data import NUM_FOLDS, SEED, digits, folds, weights_path
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from edgecompile.commands.compile_command import compose
from edgecompile.config.model_spec import model_of
from edgecompile.models import build_model

NUM_EPOCHS = 50
BATCH = 32
PEAK_RATE = 1e-3
WEIGHT_DECAY = 0.05


def train(images: torch.Tensor, labels: torch.Tensor, seed: int, num_epochs: int) -> nn.Module:
    """The model trained on these images, in eval mode, its weights rounded to half precision."""
    model = build_model(model_of(compose(["model=vit_digits"]).model), seed)
    model.train().requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    num_steps = num_epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, num_steps, pct_start=0.1)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):
            logits = model(pixel_values=images[rows]).logits
            loss = functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(value.half().float())
    return model.eval().requires_grad_(False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", default=",".join(map(str, range(NUM_FOLDS))))
    parser.add_argument("--epochs", type=int, default=NUM_EPOCHS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = digits()
    chosen = [int(fold) for fold in args.folds.split(",")]
    for fold, (rows, held_out) in enumerate(folds(labels)):
        if fold not in chosen:
            continue
        model = train(images[rows], labels[rows], SEED + fold, args.epochs)
        with torch.no_grad():
            right = model(pixel_values=images[held_out]).logits.argmax(1) == labels[held_out]
        path = weights_path(fold)
        state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
        save_file(state, path)
        print(f"fold {fold}: {right.double().mean():.2%} of {len(held_out)} held-out images right; "
              f"{path.name}, {path.stat().st_size} bytes", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
