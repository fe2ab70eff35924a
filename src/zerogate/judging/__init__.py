"""Which of two models answers better, by the judgement of a third: `zerogate judge`.

questions.py  answers.py   what was asked, and what each model answered
prompts.py    verdict.py   how the judge is asked, and what its reply comes to
items.py      cost.py      the requests of a run, and what they will cost
endpoint.py   ask.py       an OpenAI-compatible server; many requests at once, none asked twice
pairs.py      ratings.py   judgements into wins, ties and losses, or into mean ratings
reviews.py    agreement.py saved reviews of the two-score format; two judges held against each other
report.py     pictures.py  Markdown, JSON and PNG
"""
