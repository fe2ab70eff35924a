"""What ships under another licence than the code is named where the package says what its licence is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_package_names_every_licence_of_its_weights() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cards = {file.parent / "README.md" for file in (ROOT / "src").rglob("*.safetensors")}
    assert len(cards) == 2
    licences = {"apache-2.0"}
    for card in cards:
        licences.add(yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])["license"])
    assert set(project["license"].lower().split(" and ")) == licences
    assert set(project["license-files"]) == {"LICENSE", "LICENSE-CC-BY-SA-4.0", "NOTICE"}
    legal_code = (ROOT / "LICENSE-CC-BY-SA-4.0").read_text(encoding="utf-8")
    assert (
        legal_code.startswith("Attribution-ShareAlike 4.0 International")
        and "Section 8 -- Interpretation" in legal_code
    )


def test_the_notice_names_the_files_and_whose_works_they_come_from() -> None:
    for weights in (ROOT / "src").rglob("*.safetensors"):
        folder = weights.parent
        part = NOTICE[NOTICE.index(f"Files: {folder.relative_to(ROOT / 'src')}/") :].split("\n\n\n")[0]
        files = {file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".json", ".md")}
        named = part.split("Trained on")[0]
        assert files == set(re.findall(r"[\w.]+\.(?:safetensors|json|md)", named))
        # Every work that the card's table links is linked in the notice, and the card names its authors.
        links = re.findall(r"\]\((https?://[^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
        assert links and all(link in NOTICE for link in links)
