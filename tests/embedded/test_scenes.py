"""Rendered scenes, measured from their pixels."""

import numpy as np
import pytest

from safe_train.embedded.scenes import CELL_SIZE, COLORS, IMAGE_SIZE, Item, Scene, render, sample_scene, scan_indices

INK = 60  # between a digit's ink (20) and the brightest channel of the darkest color (142)


def cell(pixels, position):
    """The pixels [24, 24, 3] of a quadrant, counted from the top left in reading order."""
    top, left = (position // 2) * CELL_SIZE, (position % 2) * CELL_SIZE
    return pixels[top : top + CELL_SIZE, left : left + CELL_SIZE].astype(int)


def is_colored(pixels):
    """Whether each pixel is neither gray ground nor gray ink."""
    return pixels.max(axis=-1) - pixels.min(axis=-1) > 40


def nearest_color(pixels):
    mean = pixels[is_colored(pixels)].mean(axis=0)
    return min(COLORS, key=lambda name: np.abs(mean - COLORS[name]).sum())


def scenes(rng, count=120):
    scans = scan_indices("train")
    return [sample_scene(rng, scans) for _ in range(count)]


def test_each_quadrant_shows_its_item_and_nothing_else(rng):
    for scene in scenes(rng):
        pixels = np.asarray(render(scene))
        assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        items = {item.position: item for item in scene.items}
        assert len(items) == len(scene.items)
        for position in range(4):
            shown, item = cell(pixels, position), items.get(position)
            is_shape, is_digit = is_colored(shown).sum() > 20, (shown.max(axis=-1) < INK).sum() > 10
            assert (is_shape, is_digit) == (item is not None and item.digit is None, bool(item and item.shape == ""))
            if is_shape:
                assert nearest_color(shown) == item.color


def test_large_shapes_cover_more_than_small_ones(rng):
    for shape in ("circle", "square", "triangle", "star"):
        areas = {
            size: [
                is_colored(np.asarray(render(Scene((Item(0, shape, "red", size),), (seed, 1)))).astype(int)).sum()
                for seed in range(20)
            ]
            for size in ("small", "large")
        }
        assert min(areas["large"]) > 1.5 * max(areas["small"]), shape


def test_shapes_differ_in_how_much_of_their_bounding_box_they_fill(rng):
    """A square fills all of it, a circle pi/4, a triangle half, and a star less."""
    filled = {}
    for shape in ("circle", "square", "triangle", "star"):
        shares = []
        for seed in range(20):
            colored = is_colored(np.asarray(render(Scene((Item(0, shape, "red", "large"),), (seed, 1)))).astype(int))
            rows, columns = np.flatnonzero(colored.any(axis=1)), np.flatnonzero(colored.any(axis=0))
            shares.append(colored.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
        filled[shape] = np.mean(shares)
    assert filled["square"] > 0.9
    assert filled["circle"] == pytest.approx(np.pi / 4, abs=0.06)
    assert filled["triangle"] == pytest.approx(0.5, abs=0.08)
    assert filled["star"] < filled["triangle"] - 0.05


def test_rendering_is_a_function_of_the_scene(rng):
    scene = scenes(rng, 1)[0]
    np.testing.assert_array_equal(np.asarray(render(scene)), np.asarray(render(scene)))


def test_splits_use_different_digit_scans(rng):
    train, val = set(scan_indices("train")), set(scan_indices("val"))
    assert not train & val
    assert len(train | val) == 1_797  # UCI's count of scans
    drawn = {scene.digit_scan for scene in (sample_scene(rng, scan_indices("val")) for _ in range(200))} - {-1}
    assert drawn
    assert drawn <= val
