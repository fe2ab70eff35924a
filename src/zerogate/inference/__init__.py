"""Answers from a loaded model: the engine, sampling, files of prompts, conversations and personas."""

from zerogate.inference.generate import BASE, Answer, Engine
from zerogate.inference.sampling import Sampling

__all__ = ["BASE", "Answer", "Engine", "Sampling"]
