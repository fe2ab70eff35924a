"""The training data of recipes/compare/math.yaml: GSM8K's training questions and AQuA's rationales in one Alpaca file.

    python benchmarks/math_data.py --gsm8k gsm8k_train.jsonl --aqua aqua_cot_train.json --tests AQuA_test.json

Both end alike, `The answer is 72.`, which is what LLM-Adapters' training data does and its scorers look for. GSM8K's
calculator marks (`<<48/2=24>>`) go, AQuA's options are worded as in LLM-Adapters' test files. Compressed files
(`.xz`, `.gz`, `.bz2`) are read as they are; nothing is downloaded. `--tests` takes several files: what they ask, even
in slightly other words, is left out.
"""

import argparse
import json
import re
from pathlib import Path

from zerogate.data.leaks import find_near_duplicates, training_questions
from zerogate.data.read import read_rows
from zerogate.errors import UserError
from zerogate.training.checkpoints import write_text

_MARKS = re.compile(r"<<[^>]*>>")
_OPTIONS = re.compile(r"(?P<question>.*?)\s*Options:\s*(?P<options>\(A\).*)", re.DOTALL)
# The file wraps each question in one of some twenty phrases, of which none is part of it.
_BEFORE = re.compile(
    r"^(Question:|Some question:|Student:|Q:|Use some thinking to answer the following question\.|"
    r"Give (a quick )?stream of consciousness (and then the final answer|before answering the following question)\.)\s*"
)
_AFTER = re.compile(
    r"\s*(Let's think first\.|Think first, then make a decision\.|Stream of consciousness|Some stream|Hmmm, my stream|"
    r"Another student:|Now, let's think a bit\.|Let's give some random|OK\. Let's think\.|Random thoughts:).*$",
    re.DOTALL,
)
_FINAL = re.compile(
    r"[\s,.]*((So|Thus|Therefore|Hence),? )?([Tt]he )?([Ff]inal )?[Aa]nswer( is)?:? ?\((?P<letter>[A-E])\)\.?\s*$"
)


def gsm8k(path: str) -> list[dict[str, str]]:
    """GSM8K's rows: `answer` is a solution, `####` and the number."""
    records = []
    for number, row in read_rows(path):
        solution, mark, final = str(row["answer"]).partition("####")
        if not mark:
            raise UserError(f"{path}, row {number}: the answer has no ####")
        text = _MARKS.sub("", solution).strip()
        answer = final.strip().replace(",", "")
        records.append({"instruction": row["question"], "input": "", "output": f"{text}\nThe answer is {answer}."})
    return records


def aqua(path: str) -> list[dict[str, str]]:
    """AQuA's rationales, out of the phrases around question and answer."""
    records = []
    for number, row in read_rows(path):
        instruction, output = (str(row[name]).replace("\\n", "\n") for name in ("instruction", "output"))
        asked, final = _OPTIONS.search(_AFTER.sub("", _BEFORE.sub("", instruction))), _FINAL.search(output)
        if asked is None or final is None:
            raise UserError(f"{path}, row {number}: no options, or no final letter")
        question, options = (" ".join(asked[name].split()) for name in ("question", "options"))
        text = f"{output[: final.start()].strip()}\nThe answer is ({final['letter']})."
        records.append({"instruction": f"{question} Answer Choices: {options}", "input": "", "output": text})
    return records


def without_tests(records: list[dict[str, str]], tests: list[str]) -> list[dict[str, str]]:
    """The records whose questions no test asks, even in slightly other words."""
    while True:  # each round finds the closest record of every test question: there may be a second one
        check = find_near_duplicates(
            [record["instruction"] for record in records], [text for path in tests for text in training_questions(path)]
        )
        found = {leak.train for leak in check.leaks}
        if not found:
            return records
        records = [record for number, record in enumerate(records) if number not in found]


def main() -> None:
    """Write the file and say how much is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", required=True, help="gsm8k_train.jsonl")
    parser.add_argument("--aqua", required=True, help="aqua_cot_train.json")
    parser.add_argument("--tests", nargs="*", default=[], help="test files whose questions are left out")
    parser.add_argument("--out", type=Path, default=Path("math_train.json"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    parts = {"GSM8K": gsm8k(arguments.gsm8k), "AQuA": aqua(arguments.aqua)}
    everything = [record for part in parts.values() for record in part]
    records = without_tests(everything, arguments.tests)
    write_text(arguments.out, json.dumps(records, indent=1))
    counts = ", ".join(f"{len(part):,} of {name}" for name, part in parts.items())
    print(f"{arguments.out}: {counts}, {len(everything) - len(records):,} left out that tests ask")


if __name__ == "__main__":
    main()
