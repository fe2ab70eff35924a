"""Whole runs of `zerogate judge` against a real server: what is asked, what comes of it, and servers on bad days."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from judge_files import answer, write
from judge_server import JudgeServer, first_wins, longer_wins

Judge = Callable[..., tuple[int, str]]


FILES = ("long.jsonl", "short.jsonl")


def words(server: JudgeServer, *more: str | Path) -> list[str | Path]:
    return ["long.jsonl", "short.jsonl", "-q", "q.jsonl", "--url", server.url, "-m", "judge", "--yes", *more]


def results(folder: str = "runs/judge") -> dict[str, Any]:
    return json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_both_orders_of_every_question(judge: Judge, folder: Path, server: JudgeServer) -> None:
    code, said = judge(*words(server))
    assert code == 0
    assert len(server.bodies) == 24 and set(server.times.values()) == {1}
    # Each answer stood in each place once, and nobody's name was told.
    shown = [re.findall("===== Answer [AB] =====\n(.*)\n", body["messages"][1]["content"]) for body in server.bodies]
    files = [[json.loads(line)["text"] for line in (folder / name).read_text().splitlines()] for name in FILES]
    pairs = list(zip(*files, strict=True))
    assert sorted(map(tuple, shown)) == sorted([*pairs, *((theirs, mine) for mine, theirs in pairs)])
    assert not any(name in str(body) for body in server.bodies for name in FILES)
    found = results()["pairs"][0]
    assert (found["a"], found["b"]) == ("long", "short")
    assert {key: found["total"][key] for key in ("wins", "ties", "losses", "unparsed")} == {
        "wins": 11, "ties": 0, "losses": 1, "unparsed": 0,
    }  # fmt: skip
    assert found["categories"]["math"]["wins"] == 6 and found["categories"]["writing"]["losses"] == 1
    assert found["position"]["agree"] == 12 and found["position"]["first_place_share"] is None
    assert found["questions"][11] == {
        "question_id": "11", "category": "writing", "orders": ["second", "first"], "winner": "b",
    }  # fmt: skip
    assert results()["tokens"] == {"input": 2400, "output": 240}
    assert "By this judge long is the better one" in said and "24 requests to send" in said
    report = Path("runs/judge/report.md").read_text()
    assert "| all | 11 | 0 | 1 | 91.7% (64.6% to 98.5%) |" in report and "(long-vs-short.png)" in report
    assert Path("runs/judge/long-vs-short.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in Path("runs/judge/judgements.jsonl").read_text().splitlines()]
    assert len(lines) == 24 and {(line["first"], line["second"]) for line in lines} == {
        ("long", "short"),
        ("short", "long"),
    }


def test_a_judge_that_goes_by_the_place(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.rule = first_wins
    code, said = judge(*words(server))
    found = results()["pairs"][0]
    assert code == 0 and found["total"]["ties"] == 12 and found["total"]["win_rate"] == 0.5
    assert found["position"]["first_place_share"] == 1.0 and found["position"]["first"] == 12
    assert "the first place won 12 of 12 times" in said and "do not tell the two apart" in said


def test_replies_without_a_verdict_are_reported(judge: Judge, folder: Path, server: JudgeServer) -> None:
    def rule(answers: list[str]) -> str:
        return "I would rather not say." if any("It is 4," in text for text in answers) else longer_wins(answers)

    server.rule = rule
    code, said = judge(*words(server))
    total = results()["pairs"][0]["total"]
    assert code == 0 and (total["wins"], total["ties"], total["unparsed"]) == (10, 0, 1)
    assert "1 question without a verdict in a reply, and so not counted: 4." in said
    judge(*words(server))
    assert len(server.bodies) == 24  # the same command does not ask again
    server.rule = longer_wins
    judge(*words(server, "--retry-unparsed"))
    assert len(server.bodies) == 26 and results()["pairs"][0]["total"]["wins"] == 11


def test_nothing_is_asked_twice(judge: Judge, folder: Path, server: JudgeServer) -> None:
    judge(*words(server))
    code, said = judge(*words(server))
    assert code == 0 and "All 24 replies are known already" in said
    judge(*words(server, "--out", "elsewhere"))
    assert len(server.bodies) == 24
    assert results("elsewhere")["pairs"] == results()["pairs"]
    assert len(Path("elsewhere/judgements.jsonl").read_text().splitlines()) == 24
    # Another answer is another question to the judge; the other 22 requests are known.
    rows = [json.loads(line) for line in Path("long.jsonl").read_text().splitlines()]
    write(folder / "long.jsonl", [answer(0, "It is 0, as everybody knows."), *rows[1:]])
    judge(*words(server))
    assert len(server.bodies) == 26
    for more in (["--criteria", "Be polite."], ["--temperature", "0.5"], ["--extra", '{"seed": 1}'], ["--no-cache"]):
        asked = 0 if more == ["--no-cache"] else 24  # the run's own file still knows
        said = judge(*words(server, *more, "--dry-run"))[1]
        assert ("24 requests to send" in said) == bool(asked), more
        assert ("counts more than all of the above: Be polite." in said) == (more[0] == "--criteria")
    before = len(server.bodies)
    judge(*words(server, "--no-cache", "--out", "anew"))
    assert len(server.bodies) == before + 24


def test_known_replies_of_another_address_are_pointed_out(judge: Judge, folder: Path, server: JudgeServer) -> None:
    judge(*words(server))
    code, said = judge(*words(server, "--url", server.url.replace("127.0.0.1", "localhost")))
    assert code == 0 and f"came from {server.url}; if that is another model" in said


def test_equal_answers_are_asked_of_once(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.rule = first_wins
    judge("one=long.jsonl", "two=long.jsonl", *words(server)[2:])
    assert len(server.bodies) == 12 and results()["pairs"][0]["total"]["ties"] == 12


def test_three_files_are_three_pairs(judge: Judge, folder: Path, server: JudgeServer) -> None:
    write(folder / "none.jsonl", [answer(n, "") for n in range(12)])
    code, _ = judge("none.jsonl", *words(server))
    assert code == 0 and len(server.bodies) == 72
    assert [(pair["a"], pair["b"], pair["total"]["losses"]) for pair in results()["pairs"]] == [
        ("none", "long", 12), ("none", "short", 12), ("long", "short", 1),
    ]  # fmt: skip


def test_faults_are_tried_again(judge: Judge, folder: Path, server: JudgeServer) -> None:
    kinds = ["429", "500", "503", "408", "cut", "bare", "garbage", "shape"]
    seen: Counter[str] = Counter()

    first = count()

    def fault(times: int, number: int) -> str:
        # Each kind for two requests that come for the first time; when others are tried again is left to chance.
        kind = kinds[place % len(kinds)] if times == 1 and (place := next(first)) < 16 else ""
        seen[kind] += 1
        return kind

    server.faults = fault
    code, _ = judge(*words(server, "--concurrency", "12"))
    assert code == 0 and set(seen) == {*kinds, ""} and results()["pairs"][0]["total"]["wins"] == 11
    # Each request that met a fault came once more, and no other did.
    assert sum(count for kind, count in seen.items() if kind) == len(server.bodies) - 24
    assert Counter(server.times.values()) == {2: len(server.bodies) - 24, 1: 48 - len(server.bodies)}
    lines = [json.loads(line) for line in Path("runs/judge/judgements.jsonl").read_text().splitlines()]
    assert sum(line["retries"] for line in lines) == len(server.bodies) - 24


def test_a_slow_reply_is_tried_again(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.faults = lambda times, number: "slow" if number == 1 else ""
    code, _ = judge(*words(server, "--timeout", "1", "--limit", "2"))
    assert code == 0 and len(server.bodies) >= 5 and results()["pairs"][0]["total"]["wins"] == 2


def test_a_request_that_fails_for_good_is_left_out_and_asked_by_the_next_run(
    judge: Judge, folder: Path, server: JudgeServer
) -> None:
    server.faults = lambda times, number: "400" if number == 3 else ""
    code, said = judge(*words(server, "--concurrency", "1"))
    assert (
        code == 1 and "1 of the requests failed; the same command asks them again. Why: HTTP 400: a fault: 400" in said
    )
    total = results()["pairs"][0]["total"]
    assert (total["judged"], total["missing"]) == (11, 1)
    assert "| all | 10 | 0 | 1 |" in Path("runs/judge/report.md").read_text()
    code, _ = judge(*words(server))
    assert code == 0 and len(server.bodies) == 25 and results()["pairs"][0]["total"]["judged"] == 12


def test_an_endpoint_that_fails_always_is_given_up(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.faults = lambda times, number: "" if number <= 4 else "400"
    code, said = judge(*words(server, "--concurrency", "1"))
    assert code == 2 and "HTTP 400: a fault: 400; 4 of 24 replies are in runs/judge/judgements.jsonl" in said
    assert len(server.bodies) == 14
    server.faults = lambda times, number: "quota"
    before = len(server.bodies)
    code, said = judge(*words(server, "--concurrency", "1", "--retries", "1"))
    assert code == 2 and "You have spent it all" in said and len(server.bodies) == before + 2


def test_keys_and_names_that_the_endpoint_does_not_know(
    judge: Judge, folder: Path, server: JudgeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "secret-1"
    code, said = judge(*words(server))
    assert code == 2 and "HTTP 401: Incorrect API key provided" in said and len(server.bodies) <= 8
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    code, said = judge(*words(server, "--key-env", "JUDGE_KEY", "-m", "nobody"))
    assert code == 2 and "HTTP 404: the model 'nobody' does not exist; there are: judge" in said
    code, said = judge(*words(server, "--key-env", "JUDGE_KEY"))
    assert code == 0
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 20 and not any(b"secret-1" in file.read_bytes() for file in files)
    code, said = judge(*words(server, "--key-env", "NO_SUCH"))
    assert code == 2 and "the environment variable NO_SUCH holds no key" in said


def test_nobody_listens(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.server_close()
    code, said = judge(*words(server, "--retries", "0"))
    assert code == 2 and "the connection failed 1 times" in said and server.url in said


def test_limits(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.delay = 0.05
    judge(*words(server, "--concurrency", "3"))
    assert server.most_at_once == 3
    server.begun.clear()
    begun = time.monotonic()
    judge(*words(server, "--no-cache", "--out", "slowly", "--per-minute", "1200", "--limit", "6"))
    assert len(server.begun) == 12 and time.monotonic() - begun > 11 * 0.05
    gaps = [later - sooner for sooner, later in zip(server.begun, server.begun[1:], strict=False)]
    assert sum(gaps) > 11 * 0.05 - 0.02


def test_ratings(judge: Judge, folder: Path, server: JudgeServer) -> None:
    def rule(answers: list[str]) -> str:
        return (
            "No idea."
            if "It is 3." in answers
            else f"On a scale of [[1]] to [[10]]: [[{min(10, len(answers[0]) / 4)}]]"
        )

    server.rule = rule
    code, said = judge("--single", *words(server))
    assert code == 0 and len(server.bodies) == 24
    models = {model["name"]: model for model in results()["models"]}
    short = [len(f"It is {n}.") / 4 for n in range(12) if n != 3]
    assert models["short"]["total"]["mean"] == pytest.approx(sum(short) / 11)
    assert (models["short"]["total"]["rated"], models["short"]["total"]["unparsed"]) == (11, 1)
    low, high = models["short"]["total"]["interval_95"]
    assert low < sum(short) / 11 < high
    assert "short: 1 question without a rating in the reply: 3." in said
    assert Path("runs/judge/ratings.png").read_bytes().startswith(b"\x89PNG")
    code, _ = judge("--single", "long.jsonl", *words(server)[2:], "--out", "one")
    assert code == 0 and len(server.bodies) == 24  # known from before


def test_temperature_by_category(judge: Judge, folder: Path, server: JudgeServer) -> None:
    judge(
        *words(
            server,
            "--temperature",
            "0.2",
            "--temperature",
            "writing=none",
            "--max-tokens",
            "0",
            "--extra",
            '{"seed": 1}',
        )
    )
    assert all(body["seed"] == 1 for body in server.bodies)
    sent = Counter((body.get("temperature"), "max_tokens" in body) for body in server.bodies)
    assert sent == {(0.2, False): 12, (None, False): 12}


def test_answers_from_the_endpoint_can_be_judged(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.rules = {"fox": lambda asked: f"{asked[0]} Well, that is a long story.", "base/1": lambda asked: "No."}
    ask = ("-q", "q.jsonl", "--url", server.url, "--yes", "--out", "answers", "--answer", "fox", "--answer", "base/1")
    code, said = judge(*ask)
    assert code == 0 and "12 answers in answers/base-1.jsonl." in said
    sent = {(body["model"], body["temperature"]) for body in server.bodies}
    assert sent == {(name, heat) for name in ("fox", "base/1") for heat in (0.0, 0.7)}
    judge(*ask)
    assert len(server.bodies) == 24
    # The files tell the questions; fox has the longer answers.
    code, _ = judge("answers/fox.jsonl", "answers/base-1.jsonl", *words(server)[4:])
    assert code == 0 and results()["pairs"][0]["total"]["wins"] == 12
    assert (results()["pairs"][0]["a"], results()["pairs"][0]["b"]) == ("fox", "base/1")


def test_half_characters_in_questions_lose_no_answer(judge: Judge, folder: Path, server: JudgeServer) -> None:
    rows = [{"question_id": "a\ud83d", "category": "\udc00", "text": "Who \ud83d?"}, {"question_id": 2, "text": "Why?"}]
    Path("odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("fox", "owl"):
        server.rules[name] = lambda asked: "Because."
        ask = ("-q", "odd.jsonl", "--url", server.url, "--yes", "--out", "answers", "--answer", name)
        for _ in range(2):  # the second finds all of it
            code, said = judge(*ask)
            assert code == 0 and f"2 answers in answers/{name}.jsonl." in said, said
    assert len(server.bodies) == 4
    first = json.loads(Path("answers/fox.jsonl").read_text().splitlines()[0])
    assert (first["record"]["question_id"], first["record"]["text"]) == ("a?", "Who ??")
    code, said = judge("answers/fox.jsonl", "answers/owl.jsonl", "-q", "odd.jsonl", *words(server)[4:])
    assert code == 0, said


def test_a_dry_run_sends_nothing(judge: Judge, folder: Path, server: JudgeServer) -> None:
    code, said = judge(*words(server, "--dry-run", "--price-in", "1000", "--price-out", "0"))
    assert (code, server.bodies) == (0, []) and not Path("runs").exists()
    assert "24 requests to send: about" in said and "at most 24,576 come back" in said and "Cost: about" in said
    assert "--- system --- You will see a question and two answers" in said and "What is 0?" in said
    judge(*words(server))
    tokens = sum(len(message["content"]) for body in server.bodies for message in body["messages"]) / 4
    told = int(said.split("to send: about ")[1].split(" tokens")[0].replace(",", ""))
    assert told == pytest.approx(tokens, rel=0.05)


def test_agreement_of_runs(judge: Judge, folder: Path, server: JudgeServer) -> None:
    judge(*words(server))
    server.rule = first_wins
    judge(*words(server, "-m", "other", "--out", "other"))
    code, said = judge("--agreement", "runs/judge", "other")
    assert code == 0 and "They say the same of 0 of 12 questions" in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([], "24 requests would be sent; agree to it with --yes, or look closer with --dry-run"),
        (["--yes", "--url", "localhost:8000"], "--url localhost:8000 is no address"),
        (["--yes", "--url", "http://x/v1/chat/completions"], "give what stands before it: --url http://x/v1"),
        (["--yes", "--extra", "{"], "is malformed JSON"),
        (["--yes", "--extra", "[1]"], "is no JSON object"),
        (["--yes", "--extra", '{"n": 2}'], "--extra sets n, which zerogate judge sets itself"),
        (["--yes", "--temperature", "hot"], "--temperature hot: expected a number"),
        (["--yes", "--single", "--reviews"], "--single and --reviews are different things to do"),
        (["--yes", "--answer", "fox"], "--answer makes files of answers; judge them in a second command"),
        (["--yes", "-q", "none.jsonl"], "data file not found: none.jsonl"),
        (["--agreement", "x.json"], "--agreement takes two results, here are 3"),
    ],
)
def test_what_is_refused(changed: list[str], said: str, judge: Judge, folder: Path, server: JudgeServer) -> None:
    base = ["long.jsonl", "short.jsonl", "-q", "q.jsonl", "--url", server.url, "-m", "judge"]
    code, output = judge(*base, *changed)
    assert (code, server.bodies) == (2, []) and said in output


def test_what_is_missing(judge: Judge, folder: Path, server: JudgeServer) -> None:
    assert "name files to judge" in judge()[1]
    assert "it takes two files of answers" in judge("long.jsonl", *words(server)[2:])[1]
    assert "name the questions: --questions FILE" in judge("long.jsonl", "short.jsonl", "--yes")[1]
    assert "name the endpoint: --url" in judge("long.jsonl", "short.jsonl", "-q", "q.jsonl")[1]
    assert "name the judge: --model" in judge("long.jsonl", "short.jsonl", "-q", "q.jsonl", "--url", server.url)[1]
    assert "--answer needs the questions" in judge("--answer", "fox", "--url", server.url)[1]


def test_a_file_that_is_no_run_is_not_written_to(judge: Judge, folder: Path, server: JudgeServer) -> None:
    Path("runs/judge").mkdir(parents=True)
    write(folder / "runs/judge/judgements.jsonl", [{"mine": 1}])
    code, said = judge(*words(server))
    assert (code, server.bodies) == (2, []) and "line 1 is no judgement" in said
    assert Path("runs/judge/judgements.jsonl").read_text() == '{"mine": 1}\n'


def test_the_80_vicuna_questions_are_160_requests(
    judge: Judge, folder: Path, server: JudgeServer, shared_data: Callable[[str], Path]
) -> None:
    files = [f"{name}={shared_data(f'judge/answer/answer_{name}.jsonl')}" for name in ("llama-13b", "vicuna-13b")]
    questions = shared_data("judge/vicuna80_turns_question.jsonl")
    code, _ = judge(*files, "-q", questions, *words(server, "--concurrency", "16")[4:])
    assert code == 0 and len(server.bodies) == 160
    sizes = {}
    for name in ("llama-13b", "vicuna-13b"):
        rows = [json.loads(line) for line in shared_data(f"judge/answer/answer_{name}.jsonl").read_text().splitlines()]
        sizes[name] = {row["question_id"]: len(row["text"].strip()) for row in rows}
    longer = [sizes["llama-13b"][n] > sizes["vicuna-13b"][n] for n in range(1, 81)]
    total = results()["pairs"][0]["total"]
    assert (total["wins"], total["losses"]) == (sum(longer), 80 - sum(longer))
    assert len(results()["pairs"][0]["categories"]) == 9
    # The judge that goes by length agrees with GPT-4's reviews on most questions.
    reviews = shared_data("judge/review/vicuna-13b_20230322-clean-lang__review_llama-13b_vicuna-13b.jsonl")
    code, said = judge("--agreement", "runs/judge", reviews, "--answers", files[0], "--answers", files[1])
    assert code == 0 and "They say the same of 71 of 80 questions: 88.8%" in said


def test_replies_that_are_cut_off_are_pointed_out(judge: Judge, folder: Path, server: JudgeServer) -> None:
    server.finish = "length"
    code, said = judge(*words(server, "--limit", "2"))
    assert code == 0 and "4 replies were cut off at the longest reply, 1024 tokens. --max-tokens allows" in said
    assert results()["cut_short"] == 4


def test_judging_needs_no_torch() -> None:
    code = (
        "import sys, zerogate.judging.run, zerogate.judging.pictures\nprint({'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
