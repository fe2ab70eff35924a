"""Tasks besides continuing a text: how their data is read, what the head is, what is measured. One loop trains them.

    find_problem(recipe)

A file per task, on top of `labelled.py`; beside them the readers of real files, and the scores.
"""

from __future__ import annotations

from zerogate.training.problems.problem import Problem
from zerogate.training.recipe import Recipe


def find_problem(recipe: Recipe) -> Problem:
    """The task that a recipe is about."""
    from zerogate.training.problems.base_to_novel import BaseToNovel
    from zerogate.training.problems.causal_lm import CausalLM
    from zerogate.training.problems.image_classification import ImageClassification
    from zerogate.training.problems.question_answering import QuestionAnswering
    from zerogate.training.problems.sections import BaseToNovelRecipe, ImageRecipe, QuestionRecipe, TaggedRecipe
    from zerogate.training.problems.token_classification import TokenClassification

    if isinstance(recipe, ImageRecipe):
        return ImageClassification(recipe)
    if isinstance(recipe, BaseToNovelRecipe):
        return BaseToNovel(recipe)
    if isinstance(recipe, QuestionRecipe):
        return QuestionAnswering(recipe)
    if isinstance(recipe, TaggedRecipe):
        return TokenClassification(recipe)
    return CausalLM(recipe)
