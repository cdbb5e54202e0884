"""The contact sheet, of real thumbnails."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageDraw

COLOURS = [{"hex": "#ff0000", "share": 0.75}, {"hex": "#0000ff", "share": 0.25}]


def photo(path: Path, **more):
    return {"name": path.name, "thumbnail": str(path), "width": 640, "height": 480, "format": "PNG", "colours": COLOURS, **more}


def compose(sheet, output: Path, photos, **more):
    return sheet.compose_sheet(sheet.SheetParams(output=output, photos=photos, **more))


def test_the_sheet_has_the_size_of_its_grid(sheet, samples, tmp_path) -> None:
    result = compose(sheet, tmp_path, [photo(path) for path in samples], title="Samples", groups=[[1, 2]])
    grid = sheet.Grid.for_count(len(samples))
    with Image.open(result["contact_sheet"]) as image:
        assert image.format == "PNG"
        assert image.size == grid.size == tuple(result["contact_sheet_size"])
    assert Path(result["contact_sheet"]) == tmp_path / "contact-sheet.png"
    assert [path.name for path in tmp_path.iterdir()] == ["contact-sheet.png"]


def test_each_card_shows_its_photo_and_its_colours(sheet, tmp_path) -> None:
    paths = []
    for number, colour in enumerate(("#10c010", "#c010c0", "#10c0c0")):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (300, 200), colour).save(paths[-1])
    result = compose(sheet, tmp_path / "out", [photo(path) for path in paths])
    grid = sheet.Grid.for_count(3)
    with Image.open(result["contact_sheet"]) as image:
        for number, colour in enumerate(((16, 192, 16), (192, 16, 192), (16, 192, 192))):
            left, top = grid.corner(number)
            assert image.getpixel((left + grid.card // 2, top + grid.picture // 2)) == colour
            strip = top + grid.card_height - grid.card // 24 - 2
            assert image.getpixel((left + grid.card // 4, strip)) == (255, 0, 0)
            assert image.getpixel((left + grid.card - grid.card // 12, strip)) == (0, 0, 255)


@pytest.mark.parametrize("count", [1, 2, 7, 40, 41, 150, 151, 500])
def test_any_number_of_cards_fits(sheet, count) -> None:
    grid = sheet.Grid.for_count(count)
    width, height = grid.size
    assert grid.columns * grid.rows >= count > grid.columns * (grid.rows - 1)
    for index in (0, count - 1):
        left, top = grid.corner(index)
        assert left + grid.card <= width - grid.margin or count == 1
        assert top + grid.card_height <= height - grid.margin
    assert max(width, height) < 6000


def test_a_long_name_loses_its_middle(sheet) -> None:
    draw = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    assert sheet.shortened(draw, "short.jpg", 16, 300) == "short.jpg"
    short = sheet.shortened(draw, "a-very-long-name-of-a-photograph-2024-05-17.jpg", 16, 150)
    assert draw.textlength(short, font=sheet.font(short, 16)) <= 150
    assert short.startswith("a-very")
    assert short.endswith(".jpg")


def test_names_in_any_script_are_drawn(sheet, samples, tmp_path) -> None:
    photos = [photo(samples[0], name=name) for name in ("кошка.jpg", "猫.jpg", "", "café.jpg")]
    assert Path(compose(sheet, tmp_path, photos, title="Фото")["contact_sheet"]).is_file()
