"""Asking with images: the row's adapter looks with its own encoder, and nothing else changes."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_base import make_adapter, make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

from zerogate.bases.adapted import read_adapter
from zerogate.errors import UserError
from zerogate.inference import BASE, Engine, Sampling
from zerogate.vision import ImageSource, encoder, image_features, load_encoder, source_from

GREEDY = Sampling(temperature=0, max_new_tokens=10)
WILD = Sampling(temperature=1.5, top_p=0.95, max_new_tokens=10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("seeing")
    base = make_base(root / "base")
    eye, other = make_eye(root / "eye"), make_eye(root / "other_eye", seed=1)
    for colour in ("red", "green", "blue"):
        make_picture(root / f"{colour}.png", colour)
    return {
        "root": root,
        "base": base,
        "eye": eye,
        "one": make_seeing_adapter(root / "one", base, eye, 1),
        "two": make_seeing_adapter(root / "two", base, other, 2, layers=(1, 2, 4), hidden=3),
        "text": make_adapter(root / "text", base, 3),
    }


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Engine:
    return Engine.load(str(folders["base"]), {name: folders[name] for name in ("one", "two", "text")})


@pytest.fixture
def pictures(folders: dict[str, Path]) -> dict[str, ImageSource]:
    return {colour: source_from(f"{colour}.png", folders["root"]) for colour in ("red", "green", "blue")}


def test_an_image_changes_the_answer(engine: Engine, pictures: dict[str, ImageSource]) -> None:
    question = "Where does the fox live?"
    texts = [engine.ask(question, sampling=GREEDY, images=shown).ids
             for shown in ([], [pictures["red"]], [pictures["blue"]], [pictures["red"], pictures["blue"]])]  # fmt: skip
    assert len({tuple(ids) for ids in texts}) == 4
    assert engine.ask(question, sampling=GREEDY).ids == texts[0], "the image of the last question is gone"


def test_greedy_is_the_argmax_with_the_encoders_features(
    engine: Engine, folders: dict[str, Path], pictures: dict[str, ImageSource]
) -> None:
    prompt = engine.prompt("Where does the fox live?")
    eye = load_encoder(str(folders["eye"]), [2, 4], device="cpu")
    features = eye.features([encoder.Image.open(folders["root"] / "red.png").convert("RGB")])
    torch.testing.assert_close(image_features([pictures["red"]], eye)[pictures["red"].digest], features[0])
    engine.model.set_adapter("one")
    wanted: list[int] = []
    with torch.no_grad():
        for _ in range(6):
            logits = engine.model(torch.tensor([[*prompt, *wanted]]), image_features=features[None]).logits
            wanted.append(int(logits[0, -1].argmax()))
            if wanted[-1] == engine.tokenizer.eos_token_id:
                break
    sampling = replace(GREEDY, max_new_tokens=6)
    assert engine.answer([prompt], sampling, ["one"], images=[[pictures["red"]]])[0].ids == wanted


@pytest.mark.parametrize("sampling", [GREEDY, WILD])
def test_a_mixed_batch_is_what_each_row_is_alone(
    engine: Engine, pictures: dict[str, ImageSource], sampling: Sampling
) -> None:
    """Two adapters with encoders of their own, one that takes no images and the base; no image, one and two."""
    red, green, blue = pictures.values()
    names = ["one", "two", "text", BASE, "one", "two", "one"]
    images = [[red], [red, blue], [], [], [], [green], [blue, green]]
    prompts = [engine.prompt(f"Where {'or ' * (row % 3)}does it live?") for row in range(len(names))]
    seeds = list(range(len(names)))
    together = engine.answer(prompts, sampling, names, seeds, images)
    for row, name in enumerate(names):
        assert engine.answer([prompts[row]], sampling, [name], [seeds[row]], [images[row]]) == [together[row]]
    blind = engine.answer(prompts, sampling, names, seeds)
    changed = [
        row for row, (with_image, without) in enumerate(zip(together, blind, strict=True)) if with_image != without
    ]
    assert changed == [row for row, shown in enumerate(images) if shown]


def test_stream_is_the_answer(engine: Engine, pictures: dict[str, ImageSource]) -> None:
    prompt, pieces = engine.prompt("Where does the fox live?"), list[str]()
    streamed = engine.stream(prompt, GREEDY, pieces.append, "two", images=[pictures["red"]])
    assert streamed == engine.answer([prompt], GREEDY, ["two"], images=[[pictures["red"]]])[0]
    assert "".join(pieces) == streamed.text
    rest = engine.stream(prompt, replace(GREEDY, max_new_tokens=6), print, "two", streamed.ids[:4], [pictures["red"]])
    assert rest.ids == streamed.ids[4:]


def test_encoders_are_loaded_when_an_image_comes_and_shared(
    folders: dict[str, Path], pictures: dict[str, ImageSource], tmp_path: Path
) -> None:
    same = make_seeing_adapter(tmp_path / "same", folders["base"], folders["eye"], seed=7)
    engine = Engine.load(str(folders["base"]), {"one": folders["one"], "same": same, "two": folders["two"]})
    engine.ask("Hi.", sampling=GREEDY)
    assert engine.encoders._loaded == {}
    prompt = engine.prompt("Hi.")
    engine.answer([prompt] * 2, GREEDY, ["one", "same"], images=[[pictures["red"]]] * 2)
    assert engine.encoders.encoder("one") is engine.encoders.encoder("same")
    assert len(engine.encoders._loaded) == 1
    assert engine.encoders.encoder("two") is not engine.encoders.encoder("one")


def test_an_encoder_with_other_weights_is_warned_of_once(
    folders: dict[str, Path], pictures: dict[str, ImageSource], tmp_path: Path
) -> None:
    eye = make_eye(tmp_path / "eye")
    adapter = make_seeing_adapter(tmp_path / "seeing", folders["base"], eye)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["image_fingerprint"] = trained = load_encoder(str(eye), device="cpu").fingerprint
    (adapter / "adapter_config.json").write_text(json.dumps(config))

    def ask(times: int = 1) -> list[str]:
        engine = Engine.load(str(folders["base"]), {"mine": adapter})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(times):
                engine.ask("Hi.", sampling=GREEDY, images=[pictures["red"]])
        return [str(warning.message) for warning in caught]

    assert ask() == []
    make_eye(eye, seed=5)
    other = load_encoder(str(eye), device="cpu").fingerprint
    (said,) = ask(times=3)
    assert "'mine' was trained with other weights" in said and trained in said and other in said and str(eye) in said
    del config["image_fingerprint"]  # as adapters were saved that know of none
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert ask() == []


def test_markers_are_worded_as_in_training(engine: Engine, pictures: dict[str, ImageSource]) -> None:
    red, blue = pictures["red"], pictures["blue"]

    def asked(text: str, images: int) -> str:
        return str(engine.tokenizer.decode(engine.prompt(text, images=images)))

    assert "Is image 1 like image 2?" in asked("Is <image> like <image>?", 2)
    assert engine.prompt("<image>\nWhere is it?", images=1) == engine.prompt("Where is it?")
    assert "Explain <image> in HTML." in asked("Explain <image> in HTML.", 0)
    marked = engine.ask("<image><image>\nIs it?", sampling=GREEDY, images=[red, blue])
    assert marked == engine.ask("Is it?", sampling=GREEDY, images=[red, blue])
    both = engine.ask("Is <image>", "or <image>?", sampling=GREEDY, images=[red, blue])
    assert both == engine.ask("Is", "or image 2?", sampling=GREEDY, images=[red, blue])
    with pytest.raises(UserError, match="2 times the marker <image>, there are 1 images"):
        engine.ask("<image> <image>", sampling=GREEDY, images=[red])


def test_an_adapter_is_loaded_under_any_name(folders: dict[str, Path], pictures: dict[str, ImageSource]) -> None:
    """Saved again it is the same file; names of the projector's own parts are refused, as PEFT would mix them up."""
    engine = Engine.load(str(folders["base"]), {"eye": folders["one"], "ear": folders["one"]})
    prompt, images = engine.prompt("Hi."), [[pictures["red"]]]
    assert engine.answer([prompt], GREEDY, ["ear"], images=images) == engine.answer([prompt], GREEDY, images=images)
    engine.model.save_pretrained(folders["root"] / "again", selected_adapters=["ear"])
    again = read_adapter(folders["root"] / "again" / "ear")
    assert again.shapes == read_adapter(folders["one"]).shapes
    assert sum("projector" in name for name in again.shapes) == 4
    with pytest.raises(UserError, match="'down' cannot name an adapter here"):
        Engine.load(str(folders["base"]), {"down": folders["one"]})


@pytest.mark.parametrize(("name", "says"), [("text", r"adapter 'text' takes no images"), (BASE, "base without an ada")])
def test_an_image_for_who_takes_none(engine: Engine, pictures: dict[str, ImageSource], name: str, says: str) -> None:
    prompt = engine.prompt("Hi.")
    with pytest.raises(UserError, match=rf"{says}.*red\.png.*trained with images \(here: one, two\)"):
        engine.answer([prompt] * 2, GREEDY, ["one", name], images=[[pictures["red"]]] * 2)
    with pytest.raises(UserError, match=says):
        engine.stream(prompt, GREEDY, print, name, images=[pictures["red"]])


def test_an_image_and_the_base_alone(folders: dict[str, Path], pictures: dict[str, ImageSource]) -> None:
    with pytest.raises(UserError, match="base without an adapter takes no images"):
        Engine.load(str(folders["base"])).ask("Hi.", sampling=GREEDY, images=[pictures["red"]])


def test_images_and_encoders_that_cannot_be_used(
    engine: Engine, folders: dict[str, Path], pictures: dict[str, ImageSource], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"<html>")
    for name, says in (("bad.png", "a web page"), ("none.png", "no such file")):
        with pytest.raises(UserError, match=says):
            engine.ask("Hi.", sampling=GREEDY, images=[source_from(name, tmp_path)])
    gone = make_seeing_adapter(tmp_path / "gone", folders["base"], tmp_path / "no_eye")
    wide = make_seeing_adapter(tmp_path / "wide", folders["base"], make_eye(tmp_path / "eye"))
    lost = Engine.load(str(folders["base"]), {"gone": gone, "wide": wide})
    with pytest.raises(UserError, match=r"the adapter 'gone' \(image_encoder in its .*no such folder here .*no_eye"):
        lost.ask("Hi.", sampling=GREEDY, images=[pictures["red"]])
    lost.model.peft_config["wide"].image_channels = 8
    with pytest.raises(UserError, match=r"trained on features of 8 channels, and .* gives 16"):
        lost.ask("Hi.", sampling=GREEDY, adapter="wide", images=[pictures["red"]])
    lost.model.peft_config["wide"].image_encoder = None
    with pytest.raises(UserError, match="does not record of which vision encoder"):
        lost.ask("Hi.", sampling=GREEDY, adapter="wide", images=[pictures["red"]])
