"""Drawn pictures: what is said of a scene is what its pixels show."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np

from zerogate.vision.pictures import COLOURS, NUMBERS, SHAPES, SIZE, draw_scene


def test_a_seed_names_a_scene() -> None:
    first, again = (draw_scene(random.Random(5)) for _ in range(2))
    assert first == again and first.picture().tobytes() == again.picture().tobytes()
    assert first != draw_scene(random.Random(6))


def test_shapes_lie_where_they_are_said_to_in_the_colour_they_are_said_to_have() -> None:
    rng = random.Random(0)
    for _ in range(100):
        scene = draw_scene(rng)
        pixels = np.asarray(scene.picture()).astype(int)
        assert pixels.shape == (SIZE, SIZE, 3)
        for shape in scene.shapes:
            centre = pixels[round(shape.y), round(shape.x)]
            nearest = min(COLOURS, key=lambda name: np.abs(centre - np.array(COLOURS[name])).sum())
            assert nearest == shape.colour
            assert (int(shape.y / (SIZE / 3)), int(shape.x / (SIZE / 3))) == (shape.row, shape.column)
        drawn = (np.abs(pixels - np.array(scene.background)).sum(-1) > 120).sum()
        assert 20 * len(scene.shapes) < drawn < 450 * len(scene.shapes)


def test_answers_follow_from_the_scene() -> None:
    rng = random.Random(1)
    kinds: Counter[str] = Counter()
    yes = 0
    for _ in range(400):
        scene = draw_scene(rng)
        for question in scene.questions(rng):
            kinds[question.kind] += 1
            words = question.text.rstrip("?").split()
            shapes = [s for s in scene.shapes if s.kind in words or s.colour in words]
            match question.kind:
                case "count":
                    assert question.answer == NUMBERS[len(scene.shapes)]
                case "such":
                    assert question.answer == ("yes" if shapes else "no")
                    yes += question.answer == "yes"
                case "colour":
                    assert [s.colour for s in shapes] == [question.answer]
                case "shape":
                    assert [s.kind for s in shapes] == [question.answer]
                case "place":
                    assert [s.place for s in shapes] == [question.answer]
    assert kinds["count"] == kinds["such"] == 400 and 150 < yes < 250
    assert min(kinds.values()) > 200 and set(kinds) == {"count", "such", "colour", "shape", "place"}


def test_captions_name_every_shape() -> None:
    rng = random.Random(2)
    for _ in range(50):
        scene = draw_scene(rng)
        caption = scene.caption()
        assert all(f"{s.colour} {s.kind} at the {s.place}" in caption for s in scene.shapes)
        assert len(SHAPES) == 6 and caption.startswith("a")
