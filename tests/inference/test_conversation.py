"""Conversations and personas: what is sent, what is dropped, and that nothing said is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_base import make_adapter, make_base
from tiny_eye import make_eye, make_picture, make_seeing_adapter

from zerogate.errors import UserError
from zerogate.inference import Engine
from zerogate.inference.chat import Chat, Exchange
from zerogate.inference.personas import Example, Persona, load_persona, shipped
from zerogate.vision import ImageSource, source_from

PLAIN = Persona(name="plain", sampling={"max_new_tokens": 6, "temperature": 1.0})
TEACHER = Persona(
    name="teacher",
    context="A patient teacher speaks.",
    examples=[Example(user="Two and two?", assistant="Four.")],
    sampling={"max_new_tokens": 4},
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    root = tmp_path_factory.mktemp("chat")
    base = make_base(root / "base", context=512)
    return Engine.load(
        str(base), {"one": make_adapter(root / "one", base, 1), "two": make_adapter(root / "two", base, 2)}
    )


def sent(chat: Chat) -> str:
    return str(chat.engine.tokenizer.decode(chat.prompt()))


def ignore(text: str) -> None:
    """Nobody listens."""


def test_a_first_question_is_worded_as_in_training(engine: Engine) -> None:
    chat = Chat(engine, PLAIN)
    chat.exchanges = [Exchange("Where does the fox live?")]
    assert chat.prompt() == engine.prompt("Where does the fox live?")


def test_persona_and_past_are_sent_in_order(engine: Engine) -> None:
    chat = Chat(engine, TEACHER)
    chat.exchanges = [Exchange("One?", "Yes."), Exchange("Two?")]
    text = sent(chat)
    places = [
        text.index(part) for part in ("A patient teacher speaks.", "Two and two?", "Four.", "One?", "Yes.", "Two?", "")
    ]
    assert places[:-1] == sorted(places[:-1])
    assert text.endswith("Two?\n\n### Response:")


def test_history_of_the_persona_bounds_the_past(engine: Engine) -> None:
    chat = Chat(engine, TEACHER.model_copy(update={"history": 1}))
    chat.exchanges = [Exchange("oldest", "a"), Exchange("newest", "b"), Exchange("now")]
    assert "oldest" not in sent(chat) and "newest" in sent(chat) and chat.forgotten == 1
    chat.persona = TEACHER.model_copy(update={"history": 0})
    assert "newest" not in sent(chat) and "Four." in sent(chat)


def test_oldest_turns_go_first_and_the_persona_never(engine: Engine) -> None:
    chat = Chat(engine, TEACHER)
    dropped = []
    for number in range(12):
        chat.exchanges.append(Exchange(f"question-{number} " + "word " * 5, f"answer-{number}"))
        text = sent(chat)
        assert "A patient teacher speaks." in text and "Four." in text and f"question-{number} " in text
        present = [n for n in range(number + 1) if f"question-{n} " in text]
        assert present == list(range(number + 1 - len(present), number + 1))  # the newest, without a gap
        assert len(chat.prompt()) <= 0.75 * 512
        dropped.append(chat.forgotten)
    assert dropped[0] == 0 and dropped[-1] > 0


def test_a_question_too_long_is_refused_and_not_kept(engine: Engine) -> None:
    chat = Chat(engine, PLAIN)
    chat.exchanges = [Exchange("before", "kept")]
    with pytest.raises(UserError, match="fewer words"):
        chat.say("word " * 600, ignore)
    assert chat.exchanges == [Exchange("before", "kept")]


def test_say_regen_continue_undo_reset(engine: Engine) -> None:
    chat = Chat(engine, PLAIN)
    pieces: list[str] = []
    first = chat.say("Where?", pieces.append)
    assert "".join(pieces) == first.text == chat.exchanges[0].assistant
    assert chat.exchanges[0].done == (first.finish == "end")
    regenerated = chat.again(ignore)
    assert len(chat.exchanges) == 1 and regenerated.text != first.text  # the next seed, at temperature 1
    before = chat.exchanges[0].assistant
    chat.go_on(ignore)
    assert chat.exchanges[0].assistant.startswith(before) and len(chat.exchanges[0].assistant) > len(before)
    chat.say("And?", ignore)
    assert chat.undo().user == "And?" and len(chat.exchanges) == 1
    chat.reset()
    assert chat.exchanges == []
    for act in (chat.undo, lambda: chat.again(ignore), lambda: chat.go_on(ignore)):
        with pytest.raises(UserError, match="nothing was said"):
            act()


def test_adapters_are_switched_while_talking(engine: Engine) -> None:
    chat = Chat(engine, PLAIN.model_copy(update={"sampling": {"temperature": 0, "max_new_tokens": 8}}))
    said = {}
    for name in ("one", "two", "base"):
        chat.use_adapter(name)
        said[name] = chat.say("Where does the fox live?", ignore).ids
        chat.reset()
    assert len({tuple(ids) for ids in said.values()}) == 3
    assert said["two"] == engine.answer([engine.prompt("Where does the fox live?")], chat.sampling, ["two"])[0].ids
    with pytest.raises(UserError, match="three"):
        chat.use_adapter("three")


def test_save_and_load(engine: Engine, tmp_path: Path) -> None:
    chat = Chat(engine, TEACHER)
    chat.use_adapter("two")
    chat.say("Where? \u00e9", ignore)
    chat.save(tmp_path / "talk.json")
    assert [file.name for file in tmp_path.iterdir()] == ["talk.json"]
    other = Chat(engine, PLAIN)
    other.load(tmp_path / "talk.json")
    assert (other.persona, other.sampling, other.adapter) == (chat.persona, chat.sampling, "two")
    assert other.exchanges == chat.exchanges
    with pytest.raises(UserError, match="cannot read"):
        other.load(tmp_path / "nothing.json")
    for content in (
        "{",
        "[]",
        '{"persona": 3}',
        json.dumps({"persona": {"name": "x"}, "sampling": {}, "exchanges": [3]}),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match="not a conversation"):
            other.load(tmp_path / "bad.json")
    assert other.exchanges == chat.exchanges
    with pytest.raises(UserError, match="cannot write"):
        chat.save(tmp_path / "no" / "talk.json")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, ImageSource, ImageSource]:
    root = tmp_path_factory.mktemp("seeing")
    base, eye = make_base(root / "base", context=512), make_eye(root / "eye")
    adapters = {"eye": make_seeing_adapter(root / "one", base, eye), "text": make_adapter(root / "text", base, 2)}
    red, blue = (source_from(make_picture(root / f"{colour}.png", colour), root) for colour in ("red", "blue"))
    return Engine.load(str(base), adapters), red, blue


GREEDY = Persona(name="greedy", sampling={"max_new_tokens": 8, "temperature": 0})


def test_images_go_with_their_question_and_stay_as_long_as_it_is_sent(
    seeing: tuple[Engine, ImageSource, ImageSource],
) -> None:
    engine, red, blue = seeing
    chat = Chat(engine, GREEDY)
    chat.show(red)
    said = chat.say("What is it?", ignore)
    assert said.ids == engine.answer([engine.prompt("What is it?")], chat.sampling, images=[[red]])[0].ids
    assert chat.waiting == [] and chat.exchanges[0].images == (red,)
    assert chat.again(ignore).ids == said.ids, "greedy, and shown again"
    chat.show(blue)
    chat.say("And this?", ignore)
    assert chat.images() == [red, blue]
    chat.say("Which is larger?", ignore)
    assert chat.images() == [red, blue] and chat.exchanges[-1].images == ()
    chat.persona = GREEDY.model_copy(update={"history": 1})
    chat.prompt()
    assert chat.images() == [blue]
    chat.persona = GREEDY.model_copy(update={"history": 0})
    chat.prompt()
    assert chat.images() == []


def test_images_and_an_adapter_that_takes_none(seeing: tuple[Engine, ImageSource, ImageSource]) -> None:
    engine, red, _ = seeing
    chat = Chat(engine, GREEDY)
    chat.show(red)
    chat.use_adapter("text")
    with pytest.raises(UserError, match="'text' takes no images"):
        chat.say("What is it?", ignore)
    assert chat.exchanges == [] and chat.waiting == [red]
    with pytest.raises(UserError, match="'text' takes no images"):
        chat.show(red)
    chat.use_adapter("eye")
    chat.say("What is it?", ignore)
    chat.use_adapter("text")
    kept = list(chat.exchanges)
    with pytest.raises(UserError, match="'text' takes no images"):
        chat.again(ignore)
    assert chat.exchanges == kept
    chat.say("And now?", ignore)  # what was shown before is left out
    assert chat.images() == []


def test_a_conversation_with_images_is_saved_by_their_place(
    seeing: tuple[Engine, ImageSource, ImageSource], tmp_path: Path
) -> None:
    engine, _, _ = seeing
    chat = Chat(engine, GREEDY)
    green = source_from(make_picture(tmp_path / "green.png", "green"), tmp_path)
    chat.show(green)
    chat.say("What is it?", ignore)
    chat.say("Why?", ignore)
    chat.save(tmp_path / "talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text())["exchanges"]
    assert saved[0]["images"] == [str(tmp_path / "green.png")] and "images" not in saved[1]
    other = Chat(engine, PLAIN)
    other.load(tmp_path / "talk.json")
    assert [image.digest for image in other.exchanges[0].images] == [green.digest]
    assert other.go_on(ignore).text == chat.go_on(ignore).text
    (tmp_path / "green.png").unlink()
    before = list(other.exchanges)
    with pytest.raises(UserError, match=r"talk\.json is about an image .*green\.png: no such file"):
        other.load(tmp_path / "talk.json")
    assert other.exchanges == before


def test_markers_are_worded_as_in_training(seeing: tuple[Engine, ImageSource, ImageSource]) -> None:
    engine, red, blue = seeing
    chat = Chat(engine, GREEDY)
    chat.exchanges = [Exchange("<image>\nWhat is it?", "A fox.", images=(red,)), Exchange("Is <image> one?")]
    assert sent(chat).count("<image>") == 1, "nothing is shown with the second: its marker is text"
    chat.exchanges[-1].images = (blue,)
    assert "<image>" not in sent(chat) and "Is image 2 one?" in sent(chat)
    chat.exchanges = [chat.exchanges[-1]]
    assert "Is image 1 one?" in sent(chat)
    assert chat.prompt() == engine.prompt("Is <image> one?", images=1)

    chat = Chat(engine, GREEDY)
    chat.show(red)
    with pytest.raises(UserError, match="2 times the marker <image>, there are 1 images"):
        chat.say("<image> <image>", ignore)
    assert chat.exchanges == [] and chat.waiting == [red]
    chat.say("What is <image>?", ignore)
    assert chat.exchanges[0].user == "What is <image>?"


def test_an_image_without_a_file_is_saved_whole(
    seeing: tuple[Engine, ImageSource, ImageSource], tmp_path: Path
) -> None:
    engine, red, _ = seeing
    chat, other = Chat(engine, GREEDY), Chat(engine, GREEDY)
    chat.show(source_from(red.read(), tmp_path))
    chat.say("What is it?", ignore)
    chat.save(tmp_path / "talk.json")
    other.load(tmp_path / "talk.json")
    assert other.exchanges[0].images[0].digest == red.digest


def test_shipped_personas_are_whole() -> None:
    assert "assistant" in shipped()
    for name in shipped():
        assert load_persona(name).name == name
    assert load_persona("assistant").context == ""  # so that a question is worded as in training


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("context: hi", "name.*required"),
        ("name: a\ncontxt: hi", "contxt.*fields are"),
        ("name: a\nexamples: [{user: hi}]", "assistant"),
        ("name: a\nsampling: {temprature: 1}", "temprature"),
        ("name: a\npresets: {wild: {temperature: -1}}", "temperature"),
        ("name: a\nhistory: -1", "history"),
        ("name: [a", "not valid YAML.*line"),
        ("- a", "fields"),
    ],
)
def test_bad_personas(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        load_persona(str(file))
    assert "mine.yaml" in str(caught.value)


def test_own_persona_by_path_and_unknown_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ncontext: |\n  Two\n  lines.\n")
    assert load_persona(str(file)).context == "Two\nlines.\n"
    with pytest.raises(UserError, match="assistant"):
        load_persona("nobody")
