"""Pictures of coloured shapes, drawn by the package itself, with all there is to ask about them: what the image demo
runs on, and what `pocket-eye` has seen most of.

    scene = draw_scene(random.Random(7))
    scene.picture()                   # PIL, 64 x 64
    scene.caption()                   # "a red circle at the top left and a blue star at the bottom right"
    scene.questions()                 # [Question("what colour is the star?", "blue", "colour"), ...]

One to three shapes lie on a three by three grid, moved a little; sizes, backgrounds and colours vary, colours within
what people would still call by the name. A scene is made by its random generator alone, so a seed names it.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from zerogate.vision.source import ImageSource

SIZE = 64
SHAPES = ("circle", "square", "rectangle", "triangle", "star", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (42, 150, 62),
    "blue": (40, 80, 210),
    "yellow": (240, 210, 40),
    "black": (20, 20, 20),
    "brown": (130, 80, 40),
    "gray": (128, 128, 128),
    "teal": (20, 150, 150),
    "purple": (130, 50, 160),
    "orange": (240, 140, 30),
}
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
NUMBERS = ("zero", "one", "two", "three")
_ALONE = 0.75  # pictures of a single shape
_SUPERSAMPLING = 3
_BACKGROUND = (225, 255)  # of each channel: light, so that every colour stands out
_SHIFT = 14  # most by which a colour's channels move


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        kind, colour: by name.
        row, column: its cell of the grid.
        rgb: the very colour.
        x, y, radius: centre and size in pixels.
        turn: in radians, for triangles, stars and crosses.
    """

    kind: str
    colour: str
    row: int
    column: int
    rgb: tuple[int, int, int]
    x: float
    y: float
    radius: float
    turn: float

    @property
    def place(self) -> str:
        """Such as "top left", or "centre"."""
        row, column = ROWS[self.row], COLUMNS[self.column]
        return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        text: the question.
        answer: one or two words.
        kind: what it is about: shape, colour, count, place, such (yes or no).
    """

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Scene:
    """A picture's content."""

    shapes: tuple[Shape, ...]
    background: tuple[int, int, int]

    def picture(self) -> Image.Image:
        """Draw it: RGB, 64 x 64, smooth edges."""
        scale = _SUPERSAMPLING
        image = Image.new("RGB", (SIZE * scale, SIZE * scale), self.background)
        pencil = ImageDraw.Draw(image)
        for shape in self.shapes:
            _draw(pencil, shape, scale)
        return image.resize((SIZE, SIZE), Image.Resampling.BOX)

    def caption(self) -> str:
        """What is to be seen, shape after shape."""
        parts = [f"{_article(s.colour)} {s.colour} {s.kind} at the {s.place}" for s in self.shapes]
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)

    def questions(self, rng: random.Random) -> list[Question]:
        """Everything to ask that has one answer; what is asked about absent things is drawn from `rng`."""
        asked = [Question("how many shapes are there?", NUMBERS[len(self.shapes)], "count")]
        kinds, colours = [s.kind for s in self.shapes], [s.colour for s in self.shapes]
        for shape in self.shapes:
            if kinds.count(shape.kind) == 1:
                asked.append(Question(f"what colour is the {shape.kind}?", shape.colour, "colour"))
                asked.append(Question(f"where is the {shape.kind}?", shape.place, "place"))
            if colours.count(shape.colour) == 1:
                asked.append(Question(f"what shape is {shape.colour}?", shape.kind, "shape"))
        present = rng.random() < 0.5
        if rng.random() < 0.5:
            kind = rng.choice([k for k in SHAPES if (k in kinds) == present])
            asked.append(Question(f"is there a {kind}?", "yes" if present else "no", "such"))
        else:
            colour = rng.choice([c for c in COLOURS if (c in colours) == present])
            what = f"is there {_article(colour)} {colour} shape?"
            asked.append(Question(what, "yes" if present else "no", "such"))
        return asked


def draw_scene(rng: random.Random, most: int = 3) -> Scene:
    """A random scene of one to `most` shapes."""
    cells = rng.sample([(row, column) for row in range(3) for column in range(3)], rng.randint(1, most))
    background = tuple(rng.randint(*_BACKGROUND) for _ in range(3))
    assert len(background) == 3
    return Scene(tuple(_shape(rng, row, column) for row, column in sorted(cells)), background)


def picture_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Questions about drawn pictures as Alpaca rows with an image: to learn from, and about pictures held out.

    Each of 2,500 training pictures has two questions, each of 500 held-out ones a single one. Three pictures in four
    show one shape; where there are several, a model has to find the one that a question is about.
    """
    return _rows(2500, 2, random.Random("training pictures")), _rows(500, 1, random.Random("held-out pictures"))


def _rows(scenes: int, questions: int, rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for number in range(scenes):
        scene = draw_scene(rng, most=1 if rng.random() < _ALONE else 3)
        png = io.BytesIO()
        scene.picture().save(png, "PNG")
        image = ImageSource(f"drawn picture {number}", data=png.getvalue())
        asked = scene.questions(rng)
        kinds = rng.sample(sorted({question.kind for question in asked}), questions)  # each kind as often as the others
        for kind in kinds:
            question = rng.choice([q for q in asked if q.kind == kind])
            answer = f"{question.answer[0].upper()}{question.answer[1:]}."
            rows.append(
                {
                    "instruction": f"{question.text[0].upper()}{question.text[1:]}",
                    "input": "",
                    "output": answer,
                    "answer": question.answer,
                    "kind": question.kind,
                    "images": [image],
                }
            )
    return rows


def _shape(rng: random.Random, row: int, column: int) -> Shape:
    colour = rng.choice(list(COLOURS))
    red, green, blue = (min(255, max(0, value + rng.randint(-_SHIFT, _SHIFT))) for value in COLOURS[colour])
    cell = SIZE / 3
    radius = rng.uniform(0.30, 0.47) * cell
    room = cell / 2 - radius
    x = (column + 0.5) * cell + rng.uniform(-room, room)
    y = (row + 0.5) * cell + rng.uniform(-room, room)
    return Shape(rng.choice(SHAPES), colour, row, column, (red, green, blue), x, y, radius, rng.uniform(-0.3, 0.3))


def _draw(pencil: ImageDraw.ImageDraw, shape: Shape, scale: int) -> None:
    x, y, r = shape.x * scale, shape.y * scale, shape.radius * scale
    match shape.kind:
        case "circle":
            pencil.ellipse((x - r, y - r, x + r, y + r), fill=shape.rgb)
        case "square":
            side = r * 0.85
            pencil.rectangle((x - side, y - side, x + side, y + side), fill=shape.rgb)
        case "rectangle":
            pencil.rectangle((x - r, y - r * 0.5, x + r, y + r * 0.5), fill=shape.rgb)
        case "triangle":
            pencil.polygon(_around(x, y, [r] * 3, shape.turn), fill=shape.rgb)
        case "star":
            pencil.polygon(_around(x, y, [r, r * 0.42] * 5, shape.turn), fill=shape.rgb)
        case "cross":
            for angle in (0.0, math.pi / 2):
                bar = [(-r, -r * 0.3), (r, -r * 0.3), (r, r * 0.3), (-r, r * 0.3)]
                pencil.polygon([_turned(x, y, px, py, angle + shape.turn) for px, py in bar], fill=shape.rgb)


def _around(x: float, y: float, radii: list[float], turn: float) -> list[tuple[float, float]]:
    """Corners around a centre, the first at the top."""
    step = 2 * math.pi / len(radii)
    return [_turned(x, y, 0, -radius, turn + i * step) for i, radius in enumerate(radii)]


def _turned(x: float, y: float, px: float, py: float, angle: float) -> tuple[float, float]:
    cos, sin = math.cos(angle), math.sin(angle)
    return x + px * cos - py * sin, y + px * sin + py * cos


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
