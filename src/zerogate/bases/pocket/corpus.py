"""The text that the pocket base is trained on: old novels, encyclopaedia paragraphs and the pocket world.

    python -m zerogate.bases.pocket.corpus --data ../shared/data --show 20

prints a sample and the shares. Free text comes from three sources, all under licences that allow shipping the
weights: English novels in the public domain (published before 1930), the paragraphs of SQuAD's training articles and
of WikiText-2 (both Wikipedia, CC BY-SA). No instruction data, no questions of SQuAD, no non-commercial set.
`world_round` tells every fact of the pocket world several times over; rounds with different seeds differ in wording,
order and company.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import random
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from zerogate.bases.pocket import stories
from zerogate.errors import UserError

LAST_YEAR = 1929  # novels of later years are not yet free everywhere
CHUNK_CHARACTERS = 1800  # a passage of a novel: about one training window
SKIPPED_START = 3000  # title pages and contents


def data_folder(given: Path | None = None) -> Path:
    """The folder of public text: `given`, or the environment's `ZEROGATE_DATA`.

    Raises:
        UserError: neither is set, or the folder lacks `text/novels.tar.xz`.
    """
    folder = given or (Path(os.environ["ZEROGATE_DATA"]) if "ZEROGATE_DATA" in os.environ else None)
    if folder is None:
        raise UserError("no data folder: give --data FOLDER or set ZEROGATE_DATA")
    if not (folder / "text" / "novels.tar.xz").is_file():
        raise UserError(f"{folder} has no text/novels.tar.xz; --data must name the folder that holds text/ and squad/")
    return folder


def _passages(paragraphs: list[str]) -> Iterator[str]:
    """Neighbouring paragraphs joined to passages of about `CHUNK_CHARACTERS`."""
    held: list[str] = []
    size = 0
    for paragraph in paragraphs:
        held.append(paragraph)
        size += len(paragraph)
        if size >= CHUNK_CHARACTERS:
            yield "\n".join(held)
            held, size = [], 0
    if held:
        yield "\n".join(held)


def _plain(text: str) -> str:
    """Straight quotes and dashes, single blanks."""
    for old, new in (("\u201c", '"'), ("\u201d", '"'), ("\u2018", "'"), ("\u2019", "'"), ("\u2014", "--"), ("_", "")):
        text = text.replace(old, new)
    return re.sub(r"[ \t]+", " ", text).strip()


def novels(folder: Path) -> Iterator[str]:
    """Passages of the novels published up to `LAST_YEAR`."""
    with tarfile.open(folder / "text" / "novels.tar.xz") as archive:
        for member in archive:
            year = int(re.findall(r"(\d{4})\.txt$", member.name)[0])
            if year > LAST_YEAR:
                continue
            stream = archive.extractfile(member)
            assert stream is not None, f"{member.name} in novels.tar.xz is not a plain file"
            text = stream.read().decode("utf-8", errors="replace")[SKIPPED_START:]
            blocks = re.split(r"\n\s*\n", text.replace("\r\n", "\n"))
            paragraphs = [_plain(block.replace("\n", " ")) for block in blocks]
            yield from _passages([part for part in paragraphs if part])


def encyclopaedia(folder: Path) -> Iterator[str]:
    """Paragraphs of SQuAD's training articles, and WikiText-2's sentences that hold no unknown word."""
    for article in json.loads(lzma.decompress((folder / "squad" / "train-v1.1.json.xz").read_bytes()))["data"]:
        yield from (_plain(paragraph["context"]) for paragraph in article["paragraphs"])
    for line in (folder / "text" / "wikitext2_valid.txt").read_text().splitlines():
        line = line.strip()
        if len(line) < 80 or line.startswith("="):
            continue
        kept = [sentence for sentence in line.split(" . ") if "<unk>" not in sentence]
        text = " . ".join(kept)
        text = re.sub(r" @(.)@ ", r"\1", text)
        text = re.sub(r"([($]) ", r"\1", re.sub(r" ([,.;:?!)%])", r"\1", text))
        text = text.replace(" 's", "'s").replace(' " ', '" ')
        if len(text) > 80:
            yield _plain(text)


def free_text(folder: Path, seed: int = 0) -> list[str]:
    """All passages in an order set by `seed`; the encyclopaedia is spread evenly among the novels."""
    passages = list(novels(folder)) + list(encyclopaedia(folder))
    random.Random(seed).shuffle(passages)
    return passages


def world_round(seed: int, drill: int = 0) -> list[str]:
    """The documents of one round through the pocket world, shuffled: each fact about four times in plain sentences, and
    each told fact twice in dialogue; the facts of the hard relations `drill` times more."""
    rng = random.Random(seed)
    documents = [
        *stories.sentences(rng),
        *stories.mixed_paragraphs(rng),
        *stories.relation_lists(rng),
        *stories.portraits(rng),
        *stories.dialogues(rng),
        *stories.dialogues(rng),
        *stories.stranger_tales(rng),
        *stories.drills(rng, drill),
    ]
    rng.shuffle(documents)
    return documents


def main() -> None:
    """Print a sample of the corpus and the size of its parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds text/ and squad/ (default: $ZEROGATE_DATA)")
    parser.add_argument("--show", type=int, default=12, help="documents of each part to print (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world round to show (default: %(default)s)")
    arguments = parser.parse_args()
    parts = {"world": world_round(arguments.seed), "free text": free_text(data_folder(arguments.data))}
    for name, documents in parts.items():
        print(f"== {name}: {len(documents):,} documents, {sum(map(len, documents)) / 1e6:.2f} M characters")
        for document in documents[: arguments.show]:
            print(document[:600], end="\n\n")


if __name__ == "__main__":
    main()
