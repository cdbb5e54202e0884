"""Thumbnails and descriptions of real photographs, and of files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFilter

from avtomatika import TaskError


def describe(images, photo: Path, **more):
    return images.describe_image(images.DescribeParams(photo=photo, **more))


def resize(images, photo: Path, output: Path, **more):
    return images.resize_image(images.ResizeParams(photo=photo, output=output, **more))


def by_name(samples: list[Path], name: str) -> Path:
    return next(photo for photo in samples if photo.name == name)


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_every_sample_is_described(images, samples) -> None:
    assert len(samples) >= 8
    for photo in samples:
        found = describe(images, photo)
        with Image.open(photo) as image:
            assert (found["width"], found["height"], found["format"]) == (*image.size, image.format)
        assert found["bytes"] == photo.stat().st_size
        assert len(found["phash"]) == 16
        assert found["colours"]
        assert sum(colour["share"] for colour in found["colours"]) == pytest.approx(1, abs=0.01)


def test_a_picture_of_two_colours_has_these_two(images, tmp_path) -> None:
    picture = Image.new("RGB", (200, 100), "#c02020")
    picture.paste("#2040c0", (150, 0, 200, 100))
    picture.save(tmp_path / "two.png")
    colours = describe(images, tmp_path / "two.png", colours=2)["colours"]
    assert [colour["hex"] for colour in colours] == ["#c02020", "#2040c0"]
    assert [colour["share"] for colour in colours] == pytest.approx([0.75, 0.25], abs=0.01)


def test_a_picture_of_one_colour_has_one(images, tmp_path) -> None:
    Image.new("RGB", (40, 40), "#336699").save(tmp_path / "one.png")
    found = describe(images, tmp_path / "one.png")
    assert found["colours"] == [{"hex": "#336699", "share": 1.0}]
    assert found["sharpness"] == 0


def test_the_hash_of_the_same_photo_is_equal_and_survives_another_format(images, samples, tmp_path) -> None:
    coffee, cat = by_name(samples, "coffee.png"), by_name(samples, "cat.png")
    with Image.open(coffee) as image:
        image.resize((450, 300)).save(tmp_path / "small.jpg", quality=70)
    first = describe(images, coffee)["phash"]
    assert describe(images, coffee)["phash"] == first
    assert distance(first, describe(images, tmp_path / "small.jpg")["phash"]) <= 6
    assert distance(first, describe(images, cat)["phash"]) >= 16


def test_a_blurred_photo_is_less_sharp(images, samples, tmp_path) -> None:
    with Image.open(by_name(samples, "cat.png")) as image:
        image.filter(ImageFilter.GaussianBlur(4)).save(tmp_path / "blurred.png")
    blurred = describe(images, tmp_path / "blurred.png")["sharpness"]
    assert blurred < describe(images, by_name(samples, "cat.png"))["sharpness"] / 3


def with_exif(path: Path, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Canon"
    exif[ExifTags.Base.Model] = "Canon EOS R6"
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {
            ExifTags.Base.DateTimeOriginal: "2024:05:17 18:30:12",
            ExifTags.Base.ExposureTime: 0.004,
            ExifTags.Base.FNumber: 2.8,
            ExifTags.Base.ISOSpeedRatings: 400,
            ExifTags.Base.FocalLength: 50.0,
        }
    )
    picture = Image.new("RGB", (120, 80), "white")
    picture.paste("black", (0, 0, 40, 80))  # the left third
    picture.save(path, exif=exif, quality=95)
    return path


def test_exif_is_told_in_words(images, tmp_path) -> None:
    assert describe(images, with_exif(tmp_path / "x.jpg"))["exif"] == {
        "camera": "Canon EOS R6",
        "taken": "2024-05-17 18:30",
        "exposure": "1/250 s",
        "aperture": "f/2.8",
        "iso": "ISO 400",
        "focal length": "50 mm",
    }


def test_the_orientation_of_exif_is_honoured(images, tmp_path) -> None:
    photo = with_exif(tmp_path / "turned.jpg", orientation=6)  # to be turned clockwise: what is left comes to the top
    found = describe(images, photo)
    assert (found["width"], found["height"]) == (80, 120)
    with Image.open(resize(images, photo, tmp_path / "out", size=60)["thumbnail"]) as small:
        assert small.size == (40, 60)
        assert small.getpixel((20, 5))[0] < 50
        assert small.getpixel((20, 55))[0] > 200
        assert not small.getexif().get(ExifTags.Base.Orientation)


def test_a_thumbnail_fits_and_a_second_run_gives_the_same_file(images, samples, tmp_path) -> None:
    photo = by_name(samples, "retina.jpg")
    result = resize(images, photo, tmp_path, size=320, index=4)
    target = Path(result["thumbnail"])
    assert target.name == "005-retina.jpg"
    with Image.open(target) as small:
        assert max(small.size) == 320
    before = target.read_bytes()
    assert resize(images, photo, tmp_path, size=320, index=4)["thumbnail_bytes"] == len(before)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == [target.name]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_of_pixels_is_read(images, tmp_path, mode) -> None:
    grey = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 256)
    elif mode in ("I", "F"):
        picture = Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    else:
        picture = Image.fromarray(grey).convert("RGB" if mode == "CMYK" else mode).convert(mode)
    path = tmp_path / "picture.tif"
    picture.save(path)
    assert describe(images, path)["width"] == 64
    with Image.open(resize(images, path, tmp_path / "out")["thumbnail"]) as small:
        assert small.getpixel((2, 32))[0] < 60
        assert small.getpixel((62, 32))[0] > 190


def test_what_is_transparent_lies_on_white(images, tmp_path) -> None:
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert describe(images, tmp_path / "clear.png")["colours"][0]["hex"] == "#ffffff"


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (3000, 2)])
def test_odd_sizes_are_no_problem(images, tmp_path, size) -> None:
    Image.new("RGB", size, "#808080").save(tmp_path / "odd.png")
    assert (describe(images, tmp_path / "odd.png")["width"]) == size[0]
    assert resize(images, tmp_path / "odd.png", tmp_path / "out")["thumbnail_bytes"] > 0


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_picture_is_named(images, tmp_path, content) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    for call in (lambda: describe(images, tmp_path / "bad.png"), lambda: resize(images, tmp_path / "bad.png", tmp_path / "out")):
        with pytest.raises(TaskError, match=r"bad\.png: not a readable picture") as caught:
            call()
        assert caught.value.code == "UNREADABLE_IMAGE"


def test_a_truncated_photo_is_named(images, samples, tmp_path) -> None:
    content = by_name(samples, "rocket.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(TaskError, match=r"half\.jpg"):
        describe(images, tmp_path / "half.jpg")


def test_a_photo_that_is_gone_is_named(images, tmp_path) -> None:
    with pytest.raises(TaskError, match=r"gone\.jpg: the file is not there any more"):
        describe(images, tmp_path / "gone.jpg")
