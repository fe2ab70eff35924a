"""Recipes: strict keys with suggestions, overrides, learning rates and step counts; every shipped recipe is valid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from zerogate.errors import UserError
from zerogate.training.methods import METHODS, build_config
from zerogate.training.recipe import TrainSection, make_plan
from zerogate.training.recipe_file import apply_override, dump_recipe, load_recipe, parse_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def write(tmp_path: Path, settings: dict[str, Any]) -> Path:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__stepz": 3}, "unknown key train.stepz; did you mean steps?"),
        ({"data__max_lenght": 3}, "unknown key data.max_lenght; did you mean max_length?"),
        ({"adapter__prompt_lenght": 3}, "unknown key adapter.prompt_lenght; did you mean prompt_length?"),
        ({"outptu": "x"}, "unknown key outptu; did you mean output?"),
        ({"adapter": {"method": "zeroinit"}}, "unknown adapter.method 'zeroinit'; did you mean zero_init?"),
        ({"adapter": {"prompt_length": 3}}, "adapter.method is missing"),
        ({"train__epochs": 1}, "train: give epochs or steps, not both"),
        (
            {"adapter": {"method": "lora"}, "train__learning_rate": None},
            "train: give learning_rate or base_learning_rate",
        ),
        ({"train__warmup_epochs": 1}, "give warmup_epochs or warmup_steps, not both"),
        ({"train__micro_batch_size": 3}, "batch_size 8 is not a multiple of micro_batch_size 3"),
        ({"train__batch_size": 0}, "train.batch_size: input should be greater than 0, not 0"),
        ({"train__save_every": "week"}, "train.save_every"),
        ({"data__held_out": 0}, "data.held_out"),
        ({"data__held_out": True}, "data.held_out: give a number of records or a file, not true"),
        ({"train__seed": -1}, "train.seed: input should be greater than or equal to 0, not -1"),
        ({"train__learning_rate": float("inf")}, "train.learning_rate: input should be a finite number, not inf"),
        ({"data": {"format": "alpaca"}}, "data.path is missing"),
        ({"report_to": "tensorbord"}, "report_to"),
        ({"base__dtype": "fp8"}, "base.dtype: input should be 'float32', 'bfloat16', 'float16' or 'auto', not 'fp8'"),
    ],
)
def test_mistakes_are_named(
    settings: Callable[..., dict[str, Any]], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(write(tmp_path, settings(**change)))
    assert message in str(caught.value)


def test_a_run_folder_in_the_home_folder(settings: Callable[..., dict[str, Any]]) -> None:
    assert parse_recipe(settings(output="~/runs/a")).output == str(Path.home() / "runs" / "a")


def test_zero_init_has_a_rate_of_its_own(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    given = settings(train__learning_rate=None)
    assert load_recipe(write(tmp_path, given)).train.effective_learning_rate == METHODS["zero_init"].learning_rate
    norms = settings(train__learning_rate=None, adapter={"method": "zero_init", "modules_to_save": ["norm"]})
    with pytest.raises(UserError, match="give learning_rate or base_learning_rate"):
        load_recipe(write(tmp_path, norms))
    papers = settings(train__learning_rate=None, train__base_learning_rate=9e-3, train__batch_size=64)
    assert load_recipe(write(tmp_path, papers)).train.effective_learning_rate == pytest.approx(2.25e-3)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recipe not found"):
        load_recipe(tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("base: {name: [}\n")
    with pytest.raises(UserError, match=r"not valid YAML.*line 1"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="expected the sections base, adapter, data"):
        load_recipe(tmp_path / "list.yaml")


def test_overrides(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    file = write(tmp_path, settings())
    overrides = ["train.learning_rate=1e-3", "adapter.num_layers=2", "report_to=tensorboard", "data.held_out=null"]
    recipe = load_recipe(file, overrides)
    assert recipe.train.learning_rate == 0.001
    assert recipe.adapter["num_layers"] == 2
    assert recipe.report_to == ("tensorboard",)
    assert recipe.data.held_out is None
    assert parse_recipe(settings(report_to="none")).report_to == ()
    with pytest.raises(UserError, match=r"section\.key=value"):
        load_recipe(file, ["train.steps"])
    with pytest.raises(UserError, match="output is not a section"):
        load_recipe(file, ["output.x=1"])
    fresh: dict[str, Any] = {}
    apply_override(fresh, "a.b.c=[1, 2]")
    assert fresh == {"a": {"b": {"c": [1, 2]}}}


def test_a_dumped_recipe_is_the_recipe(settings: Callable[..., dict[str, Any]]) -> None:
    recipe = parse_recipe(settings())
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_learning_rates_of_the_paper() -> None:
    assert TrainSection(epochs=5, base_learning_rate=9e-3, batch_size=64).effective_learning_rate == pytest.approx(
        2.25e-3
    )
    assert TrainSection(epochs=5, base_learning_rate=9e-3, batch_size=32).effective_learning_rate == pytest.approx(
        1.125e-3
    )
    assert TrainSection(epochs=5, learning_rate=3e-3, batch_size=64).effective_learning_rate == 3e-3


def test_plan_counts_as_by_hand() -> None:
    train = TrainSection(epochs=2, learning_rate=1, batch_size=8, micro_batch_size=2, warmup_epochs=0.5)
    plan = make_plan(train, sequences=101)  # 51 passes of 2, 13 steps of up to 4 passes
    assert (plan.steps_per_epoch, plan.steps, plan.warmup_steps, plan.accumulation) == (13, 26, 6, 4)
    plan = make_plan(train, sequences=101, processes=2)  # 26 passes each, 13 steps of 2 passes
    assert (plan.steps_per_epoch, plan.micro_batch, plan.accumulation) == (13, 2, 2)
    with pytest.raises(ValueError, match="cannot be shared out evenly to 3 processes"):
        make_plan(train, 101, processes=3)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"method": "zero_init", "prompt_length": 0}, "prompt_length"),
        ({"method": "zero_init", "num_layers": 0}, "num_layers"),
        ({"method": "zero_init", "prompt_length": "ten"}, "adapter.prompt_length: .*not 'ten'"),
        ({"method": "lora", "r": [1]}, "adapter.r"),
    ],
)
def test_adapter_values(adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(adapter)


def test_every_method_builds() -> None:
    for name, method in METHODS.items():
        needed = {"adapter_len": 4, "adapter_layers": 2} if name == "adaption_prompt" else {}
        config = build_config({"method": name, **needed})
        assert (config is None) == (method.config is None)


TRAINING = [file for file in sorted(RECIPES.glob("*.yaml")) if not file.stem.startswith("toolform")]


@pytest.mark.parametrize("file", TRAINING, ids=lambda file: file.stem)
def test_shipped_recipes_are_valid(file: Path) -> None:
    recipe = load_recipe(file)
    build_config(recipe.adapter)
    assert file.read_text().startswith("#"), "a recipe opens by saying what it is for"


def test_the_papers_recipe() -> None:
    recipe = load_recipe(RECIPES / "alpaca-7b.yaml")
    assert (recipe.adapter["prompt_length"], recipe.adapter["num_layers"]) == (10, 30)
    assert (recipe.train.epochs, recipe.train.warmup_epochs, recipe.train.batch_size) == (5, 2, 64)
    assert recipe.train.effective_learning_rate == pytest.approx(2.25e-3)
    assert (recipe.train.betas, recipe.train.weight_decay, recipe.data.max_length) == ((0.9, 0.95), 0.02, 512)
