"""A language model of three billion parameters: the compiler's peak of memory, and a run over four hosts of 4 GB.

    sudo python benchmarks/large_model.py                    # 12.8 GB in float32: 40 GB of disk, a quarter of an hour
    python benchmarks/large_model.py --layers 2 --quick      # a part of it, on ranks of this machine

Writes a checkpoint with random weights, bfloat16 in several safetensors files with their index, as save_pretrained
does; compiles it; and runs it, verified, on emulated hosts (Linux, root). The peak is the largest resident set of the
compiler's process, pages of mapped files included.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from commands import run
from safetensors.torch import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 3072, "intermediate_size": 8192,
    "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 28,
    "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip
"""The sizes of Llama 3.2 3B."""
LENGTH = 16
TARGET_BYTES = 4e9


def write_checkpoint(folder: Path, config: dict[str, object]) -> int:
    """A file for every four layers. Returns the number of parameters."""
    width, inner, vocabulary = (int(str(config[key])) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    keys = width // 3
    per_layer = {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).bfloat16()

    layers = int(str(config["num_hidden_layers"]))
    parts: list[list[int]] = [list(range(first, min(first + 4, layers))) for first in range(0, layers, 4)]
    names: dict[str, str] = {}
    count = 0
    for number, part in enumerate([[], *parts], 1):
        tensors = {"model.embed_tokens.weight": drawn(vocabulary, width),
                   "model.norm.weight": torch.ones(width).bfloat16()} if not part else {}  # fmt: skip
        for layer in part:
            tensors |= {f"model.layers.{layer}.{name}.weight": drawn(*shape) for name, shape in per_layer.items()}
            for name in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(width).bfloat16()
        file = f"model-{number:05}-of-{len(parts) + 1:05}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, file)
        count += sum(value.numel() for value in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "config.json").write_text(json.dumps(config))
    return count


def compiled(words: list[str]) -> tuple[float, int]:
    """Seconds and the peak of the resident set, in bytes."""
    begin = time.monotonic()
    child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-I", "-m",
                                                    "edgecompile.commands.compile_command", *words])  # fmt: skip
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit("the compiler failed")
    return time.monotonic() - begin, usage.ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--memory", default="4GB", help="of each host")
    parser.add_argument("--folder", type=Path, help="keeps what is written; otherwise it goes at the end")
    parser.add_argument("--quick", action="store_true", help="ranks of this machine, without limits: needs no root")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgebench-", dir=args.folder) as name:
        folder = Path(name) if args.folder is None else args.folder
        checkpoint, outputs = folder / "checkpoint", folder / "outputs"
        checkpoint.mkdir(parents=True, exist_ok=True)
        count = write_checkpoint(checkpoint, {**CONFIG, "num_hidden_layers": args.layers})
        print(f"{count / 1e9:.2f} billion parameters, {4 * count / 1e9:.1f} GB in float32", flush=True)
        inputs = f"model.inputs={{input_ids: {{shape: [{LENGTH}], dtype: int64}}}}"
        words = ["model=pretrained", f"weights={checkpoint}", inputs, "model.output=[logits]", "microbatch=4"]
        words += [f"hosts.count={args.hosts}", f"hosts.members.local.memory={args.memory}", f"output_dir={outputs}"]
        seconds, peak = compiled([*words, "runtime.num_buffers_in=1", "runtime.num_buffers_out=1"])
        print(f"compiled in {seconds:.0f} s, peak {peak / 1e9:.2f} GB", flush=True)
        weights = sum(path.stat().st_size for path in (outputs / "weights").iterdir())
        print(f"weights on disk: {weights / (4 * count):.4f} of the model's", flush=True)
        where = "--local" if args.quick else "--emulate"
        print(run("edgelaunch", outputs / "plan.yaml", where, "--verify"), flush=True)
    return int(peak > TARGET_BYTES)


if __name__ == "__main__":
    sys.exit(main())
