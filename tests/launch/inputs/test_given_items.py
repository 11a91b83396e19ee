"""Items that an application holds: prepared as `--input` prepares files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from served import IMAGE, embedding_plan, image_plan

from edgecompile.contract.errors import UserError
from edgelaunch.inputs.given_items import GivenItems
from edgelaunch.inputs.images import prepared, read_image


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    plan = image_plan(tmp_path / "plan").plan
    given = GivenItems(plan, tmp_path / "plan")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png")
    wanted = read_image(plan, tmp_path / "a.png")
    np.testing.assert_array_equal(given.arrays(picture, "item 0")["pixels"], wanted)
    np.testing.assert_array_equal(given.image_file((tmp_path / "a.png").read_bytes(), "item 0")["pixels"], wanted)
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(given.arrays(opened, "item 0")["pixels"], wanted)
    assert prepared(picture, IMAGE, "item 0").dtype == np.float32
    assert given.is_whole(picture)
    with pytest.raises(UserError, match="item 3: its pixels are floats"):
        given.arrays(Image.fromarray(np.zeros((9, 9), np.float32)), "item 3")
    with pytest.raises(UserError, match="item 3: not a readable image"):
        given.image_file(b"GIF89a", "item 3")


@pytest.mark.slow
def test_sentences_and_tokens(tmp_path: Path) -> None:
    given = GivenItems(embedding_plan(tmp_path).plan, tmp_path)
    arrays = given.arrays("the cat", "item 0")
    assert {name: array.tolist() for name, array in arrays.items()} == {"ids": [2, 3, 0, 0, 0], "mask": [1, 1, 0, 0, 0]}
    assert given.num_tokens(arrays) == 2
    again = given.tokens([2, 3], "item 0")
    assert {name: array.tolist() for name, array in again.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    for ids, said in (([], "0 tokens, the model takes 1 to 5"), ([7], "token 7 is none of the model's 7")):
        with pytest.raises(UserError, match=f"item 4: {said}"):
            given.tokens(ids, "item 4")
    with pytest.raises(UserError, match="item 4: is an image, but tiny takes text input"):
        given.arrays(Image.new("RGB", (9, 9)), "item 4")
    with pytest.raises(UserError, match=r"item 4: .* half a character"):
        given.arrays("\ud83d", "item 4")
