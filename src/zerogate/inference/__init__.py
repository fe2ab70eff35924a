"""Answers from a loaded model: the engine, sampling, files of prompts, conversations and personas."""

from zerogate.bases.sampling import Sampling
from zerogate.inference.generate import BASE, Answer, Engine

__all__ = ["BASE", "Answer", "Engine", "Sampling"]
