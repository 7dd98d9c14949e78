"""Procedural pictures: colored shapes and scanned digits in the four quadrants of a 48 x 48 image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 48
CELL_SIZE = IMAGE_SIZE // 2
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
COLORS = {
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (45, 98, 214),
    "yellow": (236, 200, 40),
    "purple": (142, 68, 190),
}
_SUPERSAMPLING = 4
_RADIUS = {"small": 5.0, "large": 9.5}


@dataclass(frozen=True)
class Item:
    """One thing in a quadrant: a shape with color and size, or a scanned digit (``digit`` set, the rest empty)."""

    position: int
    shape: str = ""
    color: str = ""
    size: str = ""
    digit: int | None = None


@dataclass(frozen=True)
class Scene:
    """The items of one image and the seed of everything that does not change an answer (jitter, noise, shades)."""

    items: tuple[Item, ...]
    appearance_seed: tuple[int, ...]
    digit_scan: int = -1

    @property
    def shapes(self) -> tuple[Item, ...]:
        """The items that are shapes."""
        return tuple(item for item in self.items if item.digit is None)

    @property
    def digit(self) -> Item | None:
        """The scanned digit, if the scene has one."""
        return next((item for item in self.items if item.digit is not None), None)


@cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """UCI's 1,797 handwritten digits as scikit-learn ships them: [n, 8, 8] in 0..16, and their labels."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return digits.images, digits.target


def scan_indices(split: str) -> np.ndarray:
    """Indices of the digit scans that belong to a split; every fifth scan is kept for validation."""
    indices = np.arange(len(_scans()[1]))
    return indices[indices % 5 == 0] if split == "val" else indices[indices % 5 != 0]


def sample_scene(rng: np.random.Generator, scans: np.ndarray) -> Scene:
    """Draws one to four items in distinct quadrants; one scene in four holds a digit taken from ``scans``."""
    positions = rng.permutation(4)
    with_digit = rng.random() < 0.25
    num_shapes = int(rng.integers(0 if with_digit else 1, 4 if with_digit else 5))
    items = [
        Item(
            position=int(positions[k]),
            shape=SHAPES[rng.integers(len(SHAPES))],
            color=tuple(COLORS)[rng.integers(len(COLORS))],
            size=SIZES[rng.integers(len(SIZES))],
        )
        for k in range(num_shapes)
    ]
    scan = -1
    if with_digit:
        scan = int(scans[rng.integers(len(scans))])
        items.append(Item(position=int(positions[num_shapes]), digit=int(_scans()[1][scan])))
    items.sort(key=lambda item: item.position)
    return Scene(tuple(items), tuple(int(word) for word in rng.integers(0, 2**31, size=2)), scan)


def render(scene: Scene) -> Image.Image:
    """Draws a scene as an RGB image of ``IMAGE_SIZE`` pixels, antialiased, on a noisy gray ground."""
    rng = np.random.default_rng(scene.appearance_seed)
    ground = int(rng.integers(205, 246))
    canvas = Image.new("RGB", (IMAGE_SIZE * _SUPERSAMPLING, IMAGE_SIZE * _SUPERSAMPLING), (ground, ground, ground))
    draw = ImageDraw.Draw(canvas)
    for item in scene.items:
        center = _cell_center(item.position) + rng.uniform(-2.0, 2.0, size=2)
        if item.digit is None:
            radius = _RADIUS[item.size] * rng.uniform(0.92, 1.08)
            shade = tuple(int(np.clip(channel + rng.integers(-14, 15), 0, 255)) for channel in COLORS[item.color])
            draw.polygon(_outline(item.shape, center, radius), fill=shade)
        else:
            _paste_scan(canvas, scene.digit_scan, center)
    pixels = np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX), dtype=np.float32)
    noisy = pixels + rng.normal(0.0, 3.0, size=pixels.shape)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def _cell_center(position: int) -> np.ndarray:
    row, column = divmod(position, 2)
    return np.array([column + 0.5, row + 0.5]) * CELL_SIZE


def _outline(shape: str, center: np.ndarray, radius: float) -> list[tuple[float, float]]:
    """Polygon of a shape on the supersampled canvas."""
    if shape == "circle":
        polar = [(2 * math.pi * k / 48, 1.0) for k in range(48)]
    elif shape == "square":
        polar = [(math.pi / 4 + math.pi / 2 * k, 1.15) for k in range(4)]
    elif shape == "triangle":
        polar = [(-math.pi / 2 + 2 * math.pi / 3 * k, 1.2) for k in range(3)]
    else:
        polar = [(-math.pi / 2 + math.pi / 5 * k, 1.2 if k % 2 == 0 else 0.5) for k in range(10)]
    points = [center + radius * reach * np.array([math.cos(angle), math.sin(angle)]) for angle, reach in polar]
    return [(float(x) * _SUPERSAMPLING, float(y) * _SUPERSAMPLING) for x, y in points]


def _paste_scan(canvas: Image.Image, scan: int, center: np.ndarray) -> None:
    """Draws the ink of a digit scan, 20 pixels wide, in black."""
    side = 20 * _SUPERSAMPLING
    ink = Image.fromarray((_scans()[0][scan] * (255 / 16)).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    corner = [round(float(value) * _SUPERSAMPLING - side / 2) for value in center]
    canvas.paste((20, 20, 20), (corner[0], corner[1]), ink)
