"""The contact sheet: every thumbnail with its caption and its colours, on one page."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, Field

from avtomatika import TaskError, Worker

worker = Worker(worker_type="image_worker", max_concurrent_tasks=1)

PAGE, CARD, INK, FAINT, ACCENT = "#15171c", "#20232b", "#f3f1ec", "#9a9ea8", "#e8b04b"


class Photo(BaseModel):
    name: str
    thumbnail: Path
    width: int
    height: int
    format: str = ""
    colours: list[dict[str, Any]] = []


class SheetParams(BaseModel):
    output: Path
    photos: list[Photo] = Field(min_length=1)
    groups: list[list[int]] = []
    title: str = "Contact sheet"


@dataclass(frozen=True)
class Grid:
    """Where the cards lie. All lengths in pixels."""

    count: int
    columns: int
    card: int
    margin: int = 56
    gap: int = 20
    header: int = 128

    @classmethod
    def for_count(cls, count: int) -> Grid:
        card = 340 if count <= 40 else 230 if count <= 150 else 160
        return cls(count, max(1, min(count, round(math.sqrt(count * 1.2)))), card)

    @property
    def rows(self) -> int:
        return math.ceil(self.count / self.columns)

    @property
    def picture(self) -> int:
        """Height of the field that a picture is fitted into."""
        return self.card * 3 // 4

    @property
    def card_height(self) -> int:
        return self.picture + self.card // 4

    @property
    def size(self) -> tuple[int, int]:
        width = 2 * self.margin + self.columns * self.card + (self.columns - 1) * self.gap
        height = self.header + self.rows * (self.card_height + self.gap) - self.gap + self.margin
        return max(width, 640), height

    def corner(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self.columns)
        return self.margin + column * (self.card + self.gap), self.header + row * (self.card_height + self.gap)


@worker.task("compose_sheet", task_type="cpu")
def compose_sheet(params: SheetParams) -> dict[str, Any]:
    """Writes contact-sheet.png into the output folder."""
    grid = Grid.for_count(len(params.photos))
    sheet = Image.new("RGB", grid.size, PAGE)
    draw = ImageDraw.Draw(sheet)
    draw.text((grid.margin, 40), params.title, fill=INK, font=font(params.title, 40))
    count = f"{len(params.photos)} photo{'s' if len(params.photos) != 1 else ''}"
    draw.text((grid.size[0] - grid.margin, 56), count, fill=FAINT, font=font(count, 22), anchor="ra")
    letters = {index: chr(ord("A") + n % 26) for n, group in enumerate(params.groups) for index in group}
    for index, photo in enumerate(params.photos):
        place_card(sheet, draw, grid, index, photo, letters.get(index))
    target = params.output / "contact-sheet.png"
    params.output.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    sheet.save(partial, format="PNG", optimize=True)
    partial.replace(target)
    return {"contact_sheet": str(target), "contact_sheet_size": list(sheet.size)}


def place_card(sheet: Image.Image, draw: ImageDraw.ImageDraw, grid: Grid, index: int, photo: Photo, letter: str | None) -> None:
    left, top = grid.corner(index)
    right, bottom = left + grid.card, top + grid.card_height
    pad = grid.card // 24
    draw.rounded_rectangle((left, top, right, bottom), radius=pad, fill=CARD)
    picture = fitted(photo.thumbnail, grid.card - 2 * pad, grid.picture - pad)
    sheet.paste(picture, (left + (grid.card - picture.width) // 2, top + pad + (grid.picture - pad - picture.height) // 2))
    name_size, line_size = max(12, grid.card // 19), max(10, grid.card // 25)
    line = top + grid.picture + pad
    room = grid.card - 2 * pad - (name_size * 2 if letter else 0)
    draw.text((left + pad, line), shortened(draw, photo.name, name_size, room), fill=INK, font=font(photo.name, name_size))
    facts = " · ".join(part for part in (f"{photo.width} x {photo.height}", photo.format) if part)
    draw.text((left + pad, line + name_size * 1.45), facts, fill=FAINT, font=font(facts, line_size))
    if letter:
        radius = name_size * 0.72
        centre = (right - pad - radius, line + name_size * 0.62)
        draw.circle(centre, radius, fill=ACCENT)
        draw.text(centre, letter, fill=PAGE, font=font(letter, name_size * 0.85), anchor="mm")
    place_colours(draw, (left + pad, bottom - pad - pad // 2, right - pad, bottom - pad), photo.colours)


def place_colours(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colours: list[dict[str, Any]]) -> None:
    """A strip of the dominant colours, each as wide as its share."""
    left, top, right, bottom = box
    whole = sum(colour["share"] for colour in colours) or 1
    at = float(left)
    for colour in colours:
        end = at + (right - left) * colour["share"] / whole
        draw.rectangle((round(at), top, max(round(at), round(end) - 1), bottom), fill=colour["hex"])
        at = end


def fitted(path: Path, width: int, height: int) -> Image.Image:
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as exc:
        raise TaskError(f"{path.name}: not a readable picture ({exc})", code="UNREADABLE_IMAGE") from exc
    scale = min(width / picture.width, height / picture.height)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)


def shortened(draw: ImageDraw.ImageDraw, name: str, size: int, room: int) -> str:
    """The name, with its middle left out where it is wider than the room."""
    keep = len(name)
    short = name
    while draw.textlength(short, font=font(name, size)) > room and keep > 4:
        keep -= 1
        short = f"{name[: keep - keep // 3]}…{name[-(keep // 3) :]}"
    return short


def font(words: str, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; for letters it does not have, one of the system's that has them."""
    return _font(size, all(ord(letter) < 0x250 or letter in "…·" for letter in words))


@cache
def _font(size: float, latin: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not latin:
        for name in ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial Unicode.ttf", "Arial.ttf"):
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)
