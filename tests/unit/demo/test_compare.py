"""Comparing real photographs: alike are alike, and the device is named truthfully."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from avtomatika import TaskError


def run(compare, pictures: list[Path], **more):
    return compare.compare_images(compare.CompareParams(pictures=pictures, **more))


def test_the_two_views_of_the_motorcycle_are_one_group(compare, samples) -> None:
    found = run(compare, samples)
    names = [[samples[i].name for i in group] for group in found["groups"]]
    assert names == [["motorcycle-left.png", "motorcycle-right.png"]]
    matrix = np.array(found["similarity"])
    assert matrix.shape == (len(samples), len(samples))
    assert np.allclose(matrix, matrix.T)
    assert np.allclose(np.diag(matrix), 1, atol=0.01)


def test_variants_of_a_photo_are_found(compare, samples, tmp_path) -> None:
    cat = next(photo for photo in samples if photo.name == "cat.png")
    with Image.open(cat) as image:
        image.resize((200, 133)).save(tmp_path / "small.jpg", quality=60)
        ImageEnhance.Brightness(image).enhance(1.15).save(tmp_path / "bright.png")
    pictures = [*samples, tmp_path / "small.jpg", tmp_path / "bright.png"]
    groups = [{pictures[i].name for i in group} for group in run(compare, pictures)["groups"]]
    assert {"cat.png", "small.jpg", "bright.png"} in groups


def test_without_a_gpu_the_result_says_so(compare, samples) -> None:
    found = run(compare, samples[:2])
    if compare.find_device() is compare.ON_CPU:
        assert found["device_note"] == "no GPU found: computed on the CPU with NumPy"
        assert found["device"] == "CPU (NumPy)"
    else:
        assert found["device_note"].startswith("computed on the GPU")


def test_a_gpu_that_fails_is_told_and_replaced(compare, samples, monkeypatch) -> None:
    def full(array):
        raise RuntimeError("out of memory\nand a long trace")

    broken = replace(compare.ON_CPU, name="Card", note="computed on the GPU Card", put=full)
    monkeypatch.setattr(compare, "find_device", lambda: broken)
    found = run(compare, samples[:3])
    assert found["device_note"] == "the GPU could not do it (out of memory): computed on the CPU with NumPy"
    assert found["device"] == "CPU (NumPy)"


def test_any_found_gpu_gives_what_numpy_gives(compare, samples) -> None:
    device = compare.find_device()
    if device is compare.ON_CPU:
        pytest.skip("no GPU here")
    batch = np.stack([compare.load_small(photo) for photo in samples])
    assert np.allclose(compare.embed(batch, device), compare.embed(batch, compare.ON_CPU), atol=1e-3)


def test_one_photo_has_no_neighbour(compare, samples) -> None:
    found = run(compare, samples[:1])
    assert found["groups"] == []
    assert found["nearest"] == [None]


def test_a_large_album_gets_no_matrix(compare, samples) -> None:
    assert run(compare, (samples * 3)[:41])["similarity"] is None


def test_pictures_of_one_colour_have_vectors_of_length_one(compare, tmp_path) -> None:
    for name in ("black", "white", "gray"):
        Image.new("RGB", (50, 50), name).save(tmp_path / f"{name}.png")
    batch = np.stack([compare.load_small(path) for path in sorted(tmp_path.iterdir())])
    vectors = compare.embed(batch, compare.ON_CPU)
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.01)


def test_groups_hang_together_by_pairs(compare) -> None:
    similarity = np.eye(6, dtype=np.float32)
    for a, b in ((0, 3), (3, 5), (1, 2)):
        similarity[a, b] = similarity[b, a] = 0.9
    assert compare.groups_of(similarity, 0.85) == [[0, 3, 5], [1, 2]]
    assert compare.groups_of(similarity, 0.95) == []


def test_a_thumbnail_that_is_gone_is_named(compare, tmp_path) -> None:
    with pytest.raises(TaskError, match=r"gone\.jpg"):
        run(compare, [tmp_path / "gone.jpg"])
