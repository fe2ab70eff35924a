"""Whole runs of tasks with labels, through the one loop: every method, what is saved, and what the figures are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from rich.console import Console
from seqeval.metrics import f1_score
from transformers import AutoModelForImageClassification, BertForQuestionAnswering, BertForTokenClassification

from zerogate.errors import UserError
from zerogate.training.callbacks import read_metrics
from zerogate.training.problems import find_problem
from zerogate.training.problems.labelled import LabelledProblem
from zerogate.training.problems.question_answering import QuestionAnswering
from zerogate.training.problems.token_classification import TokenClassification
from zerogate.training.problems.trained import load_trained
from zerogate.training.problems.windows import Found
from zerogate.training.recipe_file import load_recipe, parse_recipe
from zerogate.training.run import Outcome, train

QUIET = Console(quiet=True)
NAMES = ["anna", "paris", "who", "live"]


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty sentences in columns; the last is long."""
    folder = tmp_path_factory.mktemp("tagged")
    lines = []
    for number in range(39):
        name = NAMES[number % 4]
        lines += [f"{name} B-PER", f"x{'y' * (number % 3)} I-PER", "lives O", "in O", "paris B-LOC", ""]
    lines += ["anna B-PER", *(f"{letter} O" for letter in "abcdefghijklmnopqrstuvwxyz"), "paris B-LOC"]
    (folder / "all.conll").write_text("\n".join(lines) + "\n")
    return folder / "all.conll"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions in SQuAD's layout: eight articles, some passages longer than a window, every other without answer."""
    folder = tmp_path_factory.mktemp("asked")
    articles = []
    for number in range(8):
        context = " ".join(["a b c d e f g h"] * (number % 3)) + f" {NAMES[number % 4]} lives in paris."
        start = context.index("paris")
        answer = {"id": f"{number}a", "question": "where ?", "answers": [{"text": "paris", "answer_start": start}]}
        none = {"id": f"{number}b", "question": "who ?", "answers": [], "is_impossible": True}
        articles.append({"title": str(number), "paragraphs": [{"context": context, "qas": [answer, none]}]})
    (folder / "squad.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    return folder / "squad.json"


Make = Callable[..., dict[str, Any]]


@pytest.fixture
def recipe(tiny_vit: Path, tiny_bert: Path, photos: Path, tagged: Path, asked: Path, tmp_path: Path) -> Make:
    """Settings of a short run of a task."""

    def make(task: str, method: str = "zero_init", **adapter: Any) -> dict[str, Any]:
        bert = {"name": str(tiny_bert), "device": "cpu"}
        base, data = {
            "image_classification": (
                {**bert, "name": str(tiny_vit)},
                {"path": str(photos), "split": "train", "held_out": "test"},
            ),
            "token_classification": (bert, {"path": str(tagged), "held_out": 10, "max_length": 16}),
            "question_answering": (bert, {"path": str(asked), "held_out": 5, "max_length": 20, "stride": 4}),
        }[task]  # fmt: skip
        train = {"steps": 4, "batch_size": 8, "learning_rate": 0.01, "evaluate_every": 2, "save_every": 2}
        adapter = {"method": method, **adapter}
        return {
            "task": task,
            "base": base,
            "adapter": adapter,
            "data": data,
            "train": train,
            "output": str(tmp_path / "run"),
        }

    return make


def run(settings: dict[str, Any], **options: bool) -> Outcome:
    return train(parse_recipe(settings), console=QUIET, **options)


def problem_of(settings: dict[str, Any]) -> LabelledProblem:
    problem = find_problem(parse_recipe(settings))
    assert isinstance(problem, LabelledProblem)
    return problem


TEXT = ["zero_init", "zero_init_prefix", "prefix_tuning", "prompt_tuning", "lora", "bitfit", "seq_bn", "linear", "full"]
NEEDED: dict[str, dict[str, Any]] = {
    "lora": {"r": 2},
    "seq_bn": {"reduction_factor": 4},
    "vpt-shallow": {"deep": False},
}
CASES = [
    *(("image_classification", m) for m in TEXT if m not in ("prefix_tuning", "prompt_tuning")),
    *(("image_classification", m) for m in ("vpt", "vpt-shallow", "side")),
    *(("token_classification", m) for m in TEXT),
    *(("question_answering", m) for m in TEXT),
]


@pytest.mark.parametrize(("task", "method"), CASES)
def test_every_method_learns_and_is_loaded_as_it_was(task: str, method: str, recipe: Make) -> None:
    more = dict(NEEDED.get(method, {}))
    if method == "lora":
        more["target_modules"] = ["q_proj"] if task == "image_classification" else ["query"]
    settings = recipe(task, method.removesuffix("-shallow"), **more)
    outcome = run(settings)
    metrics = read_metrics(outcome.folder / "metrics.jsonl")
    measured = [m for m in metrics if "eval_loss" in m]
    assert [m["step"] for m in measured] == [2, 4]
    # What is trained has moved, all of it, and nothing else has a gradient.
    trained = {n: p for n, p in outcome.model.named_parameters() if p.requires_grad}
    assert trained and all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in trained.values())
    model, processor, *_ = load_trained(outcome.folder / "last")
    problem = problem_of(settings)
    held_out = problem.load_data(processor).held_out
    assert held_out is not None
    again = problem.measure(model, held_out, batch_size=3)
    assert again["eval_loss"] == pytest.approx(measured[-1]["eval_loss"], abs=1e-5)
    assert set(problem.shown) <= set(outcome.summary["last"])
    for name, value in outcome.summary["last"].items():
        assert again[f"eval_{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert {"metric.png", "loss.png", "summary.json", "best", "last"} <= {
        file.name for file in outcome.folder.iterdir()
    }
    card = (outcome.folder / "last" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == problem.pipeline
    assert f"{outcome.summary['last'][problem.shown[0]]:.2%}" in card


@pytest.mark.parametrize("method", ["zero_init", "vpt", "side", "lora", "linear"])
def test_a_half_precision_base(method: str, recipe: Make) -> None:
    settings = recipe("image_classification", method, **({"target_modules": ["q_proj"]} if method == "lora" else {}))
    settings["base"]["dtype"] = "bfloat16"
    outcome = run(settings)
    dtypes = {p.requires_grad: p.dtype for p in outcome.model.parameters()}
    assert dtypes == {False: torch.bfloat16, True: torch.float32}
    assert outcome.summary["last_loss"] < 2


def test_red_and_blue_are_told_apart(recipe: Make) -> None:
    settings = recipe("image_classification", "linear")
    settings["train"] |= {"steps": 30, "learning_rate": 0.05, "evaluate_every": 30}
    assert run(settings).summary["last"]["accuracy"] == 1.0


@pytest.mark.parametrize("task", ["image_classification", "token_classification", "question_answering"])
def test_the_loss_is_transformers_own(task: str, recipe: Make) -> None:
    settings = recipe(task)
    problem = problem_of(settings)
    model, processor = problem.load_base(whole=False, device="cpu")
    part = problem.load_data(processor).train
    # Padding is no answer here, while transformers takes it for one: questions of one length have none.
    examples = [part.examples[i] for i in range(6)]
    examples = [e for e in examples if task != "question_answering" or len(e["input_ids"]) == 20]
    batch = problem.collate(examples)
    batch.pop("rows")
    total, count, _ = problem.summed_loss(model, batch)
    labels = batch.pop("labels")
    if task == "question_answering":
        own = model(**batch, start_positions=labels[:, 0], end_positions=labels[:, 1]).loss
        assert isinstance(model, BertForQuestionAnswering)
    else:
        own = model(**batch, labels=labels).loss
    assert total.item() / count == pytest.approx(own.item(), rel=1e-5)


def test_a_killed_run_ends_as_a_whole_one(recipe: Make, tmp_path: Path) -> None:
    whole = run(recipe("token_classification", "zero_init_prefix"))
    settings = recipe("token_classification", "zero_init_prefix") | {"output": str(tmp_path / "two")}
    run(settings)
    # As if the second half had not been: the checkpoint of step 2 is what is left.
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-0000004")
    (tmp_path / "two" / "summary.json").unlink()
    resumed = run(settings, resume=True)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, dict(resumed.model.named_parameters())[name]), name
    assert resumed.summary["last"] == whole.summary["last"]


@pytest.mark.parametrize("steps", [4, 6], ids=["at an epoch's end", "inside an epoch"])
def test_a_run_killed_after_its_last_checkpoint_ends_as_a_whole_one(steps: int, recipe: Make) -> None:
    settings = recipe("token_classification", "zero_init_prefix")
    settings["train"]["steps"] = steps  # four steps are an epoch
    whole = run(settings)
    (whole.folder / "summary.json").unlink()
    resumed = run(settings, resume=True)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, dict(resumed.model.named_parameters())[name]), name
    assert whole.summary | {"seconds": 0} == resumed.summary | {"seconds": 0}


def test_the_head_is_fresh_and_seeded(recipe: Make, tiny_vit: Path) -> None:
    settings = recipe("image_classification")
    heads = []
    for seed in (0, 0, 1):
        settings["train"]["seed"] = seed
        model, _ = problem_of(settings).load_base(whole=False, device="cpu")
        heads.append(model.classifier.weight)
        assert model.classifier.weight.shape == (2, 32) and model.config.id2label == {0: "blue", 1: "red"}
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    # Five classes in the data, as in the checkpoint: its old head is still not what training starts from.
    old = AutoModelForImageClassification.from_pretrained(tiny_vit)
    fresh = problem_of(settings)
    fresh.label_names = lambda: list("abcde")  # type: ignore[method-assign]
    model, _ = fresh.load_base(whole=False, device="cpu")
    assert model.classifier.weight.shape == old.classifier.weight.shape
    assert not torch.equal(model.classifier.weight, old.classifier.weight)
    assert torch.equal(model.vit.layers[0].mlp.fc1.weight, old.vit.layers[0].mlp.fc1.weight)


def test_spans_are_counted_as_seqeval_does_whatever_the_windows(recipe: Make) -> None:
    settings = recipe("token_classification")
    problem = problem_of(settings)
    model, processor = problem.load_base(whole=False, device="cpu")
    assert isinstance(model, BertForTokenClassification)
    part = problem.load_data(processor).train
    assert len(part) > len(part.records), "the long sentence is cut"
    names = problem.label_names()
    assert names == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    # The truth as a prediction scores 1; every name missed in one sentence in three scores as seqeval says.
    right = [
        [max(example["labels"][at], 0) for at in example["starts"] if at is not None]
        for example in (part.examples[i] for i in range(len(part)))
    ]
    assert problem.score(right, part)["f1"] == 1.0
    wrong = [[0] * len(words) if i % 3 == 0 else words for i, words in enumerate(right)]
    truth = [[names[c] for c in words] for words in right]
    said = [[names[c] for c in words] for words in wrong]
    assert problem.score(wrong, part)["recall"] < 1
    assert problem.score(wrong, part)["f1"] == pytest.approx(f1_score(truth, said), abs=0.02)


def test_answers_are_found_over_windows_and_none_where_that_is_likelier(recipe: Make) -> None:
    problem = problem_of(recipe("question_answering"))
    assert isinstance(problem, QuestionAnswering)
    data = problem.load_data(problem.load_processor())
    part = data.train
    windows = [part.examples[i] for i in range(len(part))]
    assert len(windows) > len(part.records)
    for example in windows:
        question = part.records[example["row"] - 1]
        first, last = example["labels"]
        if question.answers and first:
            (begin, _), (_, end) = example["spans"][first], example["spans"][last]
            assert question.context[begin:end] == "paris"
    assert any(example["labels"] != [0, 0] for example in windows)
    truth = []
    for example in windows:
        question = part.records[example["row"] - 1]
        has = example["labels"] != [0, 0]
        at = question.context.index("paris")
        truth.append(Found(5.0, at, at + 5, -5.0) if has else Found(0.0, 0, 1, 1.0 if question.answers else 9.0))
    scores = problem.score(truth, part)
    # With an answer 0 - 1 at least in its other windows, 5 + 5 in its own; without one 0 - 9.
    assert -9 < scores.pop("best_margin") <= 10
    of = ("", "has_answer_", "no_answer_", "best_")
    assert scores == {f"{name}{figure}": 1.0 for name in of for figure in ("exact_match", "f1")}
    # A model that is too shy: nothing is right by itself, but a lower margin makes all of it right.
    shy = problem.score([found._replace(none=found.none + 12) for found in truth], part)
    without = sum(not question.answers for question in part.records) / len(part.records)
    assert (shy["f1"], shy["has_answer_f1"], shy["no_answer_f1"]) == (pytest.approx(without), 0.0, 1.0)
    assert shy["best_f1"] == 1.0 and -21 < shy["best_margin"] <= -2
    assert problem.shown == ("f1", "exact_match", "best_f1")


def test_an_answer_is_in_order_and_short_enough(recipe: Make) -> None:
    settings = recipe("question_answering")
    settings["data"]["max_answer_length"] = 2
    problem = problem_of(settings)
    part = problem.load_data(problem.load_processor()).train
    example = part.examples[0]
    inside = [at for at, span in enumerate(example["spans"]) if span is not None]
    logits = torch.zeros(1, 2, len(example["input_ids"]))
    logits[0, 0, inside[0]], logits[0, 1, inside[3]] = 9, 9  # four tokens: too long
    logits[0, 0, inside[2]], logits[0, 1, inside[1]] = 8, 8  # the wrong way round
    logits[0, 0, 0] = logits[0, 1, 0] = 50  # the question's side is no answer, whatever it scores
    (found,) = problem.predict(logits, {}, [example])
    assert (found.logit, found.none) == (17.0, 100.0)
    spans = example["spans"]
    assert (found.first, found.last) in (
        (spans[inside[2]][0], spans[inside[3]][1]),
        (spans[inside[0]][0], spans[inside[1]][1]),
    )


def test_questions_of_one_article_are_never_parted(recipe: Make) -> None:
    problem = problem_of(recipe("question_answering"))
    assert isinstance(problem, QuestionAnswering)
    train, held_out = problem.questions
    assert len(held_out) == 5
    assert {q.group for q in train}.isdisjoint({q.group for q in held_out})


def test_an_answer_with_a_space_at_its_end_is_learned(recipe: Make, tmp_path: Path) -> None:
    context = "anna lives in paris ."
    rows = [
        {"title": f"{n}", "context": context, "question": "where ?", "answers": {"text": [text], "answer_start": [at]}}
        for n, (text, at) in enumerate((("paris", 14), ("paris ", 14), (" paris", 13)))
    ]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = recipe("question_answering")
    settings["data"] |= {"path": str(tmp_path / "qa.jsonl"), "held_out": None}
    problem = problem_of(settings)
    examples = problem.load_data(problem.load_processor()).train.examples
    first, *others = [examples[i]["labels"] for i in range(3)]
    assert first != [0, 0] and others == [first, first]
    rows[1] |= {"context": "\u200b", "answers": {"text": [], "answer_start": []}}
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"question 2: its passage .* has no tokens"):
        problem_of(settings).load_data(problem.load_processor())


def test_the_frames_of_a_sentence_are_never_parted(recipe: Make, tmp_path: Path) -> None:
    def row(number: int) -> dict[str, Any]:
        frames = [{"predicate": at, "tags": [f"B-{'V' if at == i else 'ARG0'}" for i in range(3)]} for at in range(3)]
        return {"words": ["anna", "lives", "x" + "y" * number], "frames": frames}

    (tmp_path / "srl.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(6)))
    settings = recipe("token_classification")
    settings["data"] |= {"path": str(tmp_path / "srl.jsonl"), "held_out": 4}
    problem = problem_of(settings)
    assert isinstance(problem, TokenClassification)
    train, held_out = problem.sentences
    assert (len(train), len(held_out)) == (12, 4)
    assert {s.text for s in train}.isdisjoint({s.text for s in held_out})
    told = problem.load_data(problem.load_processor()).lines()
    assert "1 kinds of spans: ARG0" in told[0] and "no leak" in told[-1]
    # Another file with other predicates of the same sentences leaks them.
    one = row(0) | {"frames": row(0)["frames"][:1]}
    (tmp_path / "train.jsonl").write_text(json.dumps(one) + "\n")
    settings["data"] |= {"path": str(tmp_path / "train.jsonl"), "held_out": str(tmp_path / "srl.jsonl")}
    problem = problem_of(settings)
    assert "leak: 3 of them" in problem.load_data(problem.load_processor()).lines()[-1]


def test_broken_pictures_are_named_before_anything_is_written(recipe: Make, photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    for part in ("train", "test"):
        cut = copy / part / "red" / "3.png"
        cut.write_bytes(cut.read_bytes()[:-30])
    (copy / "train" / "red" / "more").mkdir()
    shutil.copy(photos / "train" / "red" / "0.png", copy / "train" / "red" / "more")
    settings = recipe("image_classification", "linear")
    settings["data"]["path"] = str(copy)
    with pytest.raises(UserError, match=r"2 pictures cannot be used(.|\n)*train/red/3\.png(.|\n)*test/red/3\.png"):
        run(settings)
    assert not Path(settings["output"]).exists()
    for part in ("train", "test"):
        (copy / part / "red" / "3.png").unlink()
    problem = problem_of(settings)
    told = problem.load_data(problem.load_processor()).lines()
    assert told[-1] == "1 pictures that lie in no class's own folder left out, such as train/red/more/0.png"


def test_recipes_say_their_task(recipe: Make, tmp_path: Path) -> None:
    settings = recipe("token_classification")
    outcome = run(settings)
    again = load_recipe(outcome.folder / "recipe.yaml")
    assert again == parse_recipe(settings)
    with pytest.raises(UserError, match="unknown task 'ner'; known tasks: causal_lm"):
        parse_recipe(settings | {"task": "ner"})
    with pytest.raises(UserError, match=r"unknown key data\.strides?; did you mean|unknown key data\.stide"):
        parse_recipe(settings | {"data": settings["data"] | {"stide": 3}})
    plain = {key: value for key, value in settings.items() if key != "task"} | {"data": {"path": "x"}}
    assert parse_recipe(plain) == parse_recipe(plain | {"task": "causal_lm"})
    assert "task" not in parse_recipe(plain).model_dump()


@pytest.mark.parametrize(
    ("task", "method", "change", "message"),
    [
        ("image_classification", "prompt_tuning", {}, "for pictures there is vpt"),
        ("token_classification", "vpt", {}, "takes no pictures"),
        ("token_classification", "side", {}, "takes no pictures alone, .*: side-tuning is for vision transformers"),
        ("image_classification", "zero_init", {"held_out": 24}, "leaves nothing to train on"),
        ("image_classification", "zero_init", {"held_out": "dev"}, "no pictures at dev/CLASS/PICTURE"),
        ("question_answering", "zero_init", {"stride": 18}, "not more than data.stride 18"),
    ],
)
def test_what_cannot_be_is_said_before_training(
    task: str, method: str, change: dict[str, Any], message: str, recipe: Make
) -> None:
    settings = recipe(task, method)
    settings["data"] |= change
    with pytest.raises(UserError, match=message):
        run(settings)
    assert not Path(settings["output"]).exists()


def test_a_base_of_another_kind_is_refused(recipe: Make, tiny_bert: Path) -> None:
    settings = recipe("image_classification")
    settings["base"]["name"] = str(tiny_bert)
    with pytest.raises(UserError, match="is a bert, for which there is no AutoModelForImageClassification"):
        run(settings)


def test_peft_itself_loads_the_adapter(recipe: Make) -> None:
    settings = recipe("token_classification", "zero_init_prefix")
    outcome = run(settings)
    problem = problem_of(settings)
    base, processor = problem.load_base(whole=False, device="cpu")
    held_out = problem.load_data(processor).held_out
    assert held_out is not None
    loaded = PeftModel.from_pretrained(base, outcome.folder / "last")
    assert problem.measure(loaded, held_out, 8)["eval_loss"] == pytest.approx(outcome.summary["last_loss"], abs=1e-5)
