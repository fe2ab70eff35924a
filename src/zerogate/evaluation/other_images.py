"""Questions with the images of other questions: what is left of a score then, the model did not see.

same = evaluate_task(model, tokenizer, task, questions)
other = evaluate_task(model, tokenizer, task, shuffled_images(questions, seed=0))
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from zerogate.errors import UserError
from zerogate.evaluation.tasks import Question


def shuffled_images(questions: Sequence[Question], seed: int) -> list[Question]:
    """Give each image's questions the images of another one, chosen by the seed; none keeps its own.

    Questions without images stay as they are. All questions about one image get the same other image.

    Raises:
        UserError: all questions are about one and the same image.
    """
    shown = {
        tuple(image.key for image in question.images): question.images for question in questions if question.images
    }
    if len(shown) == 1:
        raise UserError("all questions are about one image: there is no other to show instead")
    keys = list(shown)
    random.Random(seed).shuffle(keys)
    # One cycle through all of them: the next image is never the same.
    other = {key: shown[keys[(place + 1) % len(keys)]] for place, key in enumerate(keys)}
    return [
        replace(question, images=other[tuple(image.key for image in question.images)]) if question.images else question
        for question in questions
    ]
