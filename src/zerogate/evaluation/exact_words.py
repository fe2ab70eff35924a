"""Visual questions whose answers are a few words: exact match, as the data sets' own figures count it."""

from __future__ import annotations

from dataclasses import replace

from zerogate.evaluation.choice import WordScorer
from zerogate.evaluation.scorers import Verdict


class ExactWordScorer(WordScorer):
    """One of the task's words, and nothing else."""

    def judge(self, response: str, label: str) -> Verdict:
        """Compat: the response is the label, case, white space and a full stop aside. Strict: as for other words."""
        said = response.strip().removesuffix(".").strip().lower()
        theirs = said if said in self.words else ""
        return replace(super().judge(response, label), compat=theirs == label, extracted_compat=theirs)
