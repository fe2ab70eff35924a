"""A model puts calls of tools into texts where they help it, and keeps those that do (Toolformer, arXiv 2302.04761).

positions.py   where a call would begin, by the model's own probability
filter.py      how much easier the rest of a text becomes with a call and its result
merge.py       the kept calls of all tools, back into the text, by token ids
score.py       log probabilities of chosen tokens in a batch of any size
"""
