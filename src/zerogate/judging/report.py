"""What judging came to: tables as rows of text, `report.md`, `results.json` and pictures in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerogate.evaluation.write import write_results
from zerogate.judging.agreement import Agreement
from zerogate.judging.figures import Interval
from zerogate.judging.pairs import Contest, PlaceBias, Tally
from zerogate.judging.ratings import Mean, Ratings
from zerogate.judging.reviews import Reviews, Totals
from zerogate.training.checkpoints import write_text

_COUNTED = (
    "An answer wins a question if it wins in both orders, otherwise the question is a tie. The win rate counts a tie "
    "as half; its interval is Wilson's, 95 %."
)
_AVERAGED = "Means with 95 % intervals: a bootstrap over the questions, 10,000 times."


@dataclass(frozen=True)
class Table:
    """A table as text; `notes` stand below it."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    picture: str = ""

    def markdown(self) -> str:
        """The table in Markdown."""
        lines = [self.headings, ["---"] + ["---:"] * (len(self.headings) - 1), *self.rows]
        text = [f"## {self.title}", "", *("| " + " | ".join(map(_cell, line)) + " |" for line in lines), ""]
        for note in self.notes:
            text += [note, ""]
        return "\n".join([*text, f"![{self.title}]({self.picture})", ""] if self.picture else text)


def contest_table(contest: Contest) -> Table:
    """Wins, ties and losses by category, and what is to be said of them."""
    rows = [_tally_row("all", contest.total)]
    if len(contest.categories) > 1:
        rows += [_tally_row(name, tally) for name, tally in contest.categories.items()]
    total, interval = contest.total, contest.total.interval
    notes = []
    if interval is not None:
        low, high = interval
        better = contest.a if low > 0.5 else contest.b if high < 0.5 else None
        told = f"{better} is the better one" if better else "these questions do not tell the two apart"
        notes.append(f"By this judge {told}: the win rate of {contest.a} is {_share(total.win_rate, interval)}.")
    notes += [*_bias_notes(contest.bias), *_left_out(contest)]
    headings = ["category", "wins", "ties", "losses", "win rate (95 %)", "unparsed"]
    headings, rows = _without_empty(headings, rows, "unparsed")
    return Table(f"{contest.a} against {contest.b}", headings, rows, notes, f"{_file_name(contest.a, contest.b)}.png")


def ratings_table(rated: Sequence[Ratings]) -> Table:
    """Mean ratings, a column for each model."""
    rows = [["all", *(_mean(model.total) for model in rated)]]
    if len(rated[0].categories) > 1:
        rows += [[name, *(_mean(model.categories[name]) for model in rated)] for name in rated[0].categories]
    notes = []
    for model in rated:
        notes += _listed(model.name, "without a rating in the reply", [
            answer.question_id for answer in model.answers if answer.rating is None and not answer.missing
        ])  # fmt: skip
        notes += _listed(
            model.name, "not rated, the request failed", [a.question_id for a in model.answers if a.missing]
        )
    return Table("Ratings", ["category", *(model.name for model in rated)], rows, notes, "ratings.png")


def reviews_tables(files: Sequence[Reviews]) -> list[Table]:
    """The totals of all files, then those by category."""
    named = ["first", "second", "higher: first, none, second", "unparsed"]
    rows = [[reviews.title, *_totals(reviews.total)] for reviews in files]
    headings, rows = _without_empty(["reviews", *named], rows, "unparsed")
    notes = []
    for reviews in files:
        if reviews.by_hand:
            notes.append(
                f"{Path(reviews.path).name}: {reviews.by_hand} reviews do not begin with two scores; theirs are taken "
                "from the field score."
            )
        if reviews.differing:
            notes.append(
                f"{Path(reviews.path).name}: the first line has other scores than the field score, which counts, in "
                f"the questions {', '.join(reviews.differing)}."
            )
    tables = [Table("Sums of scores", headings, rows, notes, "reviews.png")]
    for reviews in files:
        if reviews.categories:
            lines = [[name, *_totals(totals)] for name, totals in reviews.categories.items()]
            tables.append(Table(reviews.title, *_without_empty(["category", *named], lines, "unparsed")))
    return tables


def agreement_table(found: Agreement) -> Table:
    """What one judge said against what the other said, and how far that is the same."""
    names = {"a": found.first.a, "tie": "tie", "b": found.first.b}
    rows = [[f"first: {names[x]}", *(str(found.table[x, y]) for y in names)] for x in names]
    same, decided = found.decided
    kappa = "not defined" if found.kappa is None else f"{found.kappa:.2f}"
    share = _share(found.same / found.questions, found.interval)
    notes = [
        f"They say the same of {found.same} of {found.questions} questions: {share}. Cohen's kappa is {kappa}.",
        f"Where both name a winner, it is the same one {same} of {decided} times.",
    ]
    if not found.named:
        notes.append(
            f"{found.first.path} is about {found.first.a} and {found.first.b}, {found.second.path} about "
            f"{found.second.a} and {found.second.b}: taken for the same two, in this order."
        )
    return Table("Agreement", ["", *(f"second: {name}" for name in names.values())], rows, notes)


def write_contests(
    folder: Path, contests: Sequence[Contest], about: Mapping[str, Any], lines: Sequence[str]
) -> list[Table]:
    """Write the report of pairs; `about` is what was asked of whom, `lines` say it in words."""
    from zerogate.judging.pictures import draw_contest

    tables = [contest_table(contest) for contest in contests]
    pairs = [
        {
            "a": contest.a, "b": contest.b, "total": contest.total.as_dict(),
            "categories": {name: tally.as_dict() for name, tally in contest.categories.items()},
            "position": contest.bias.as_dict(),
            "questions": [vars(duel) for duel in contest.duels],
        }
        for contest in contests
    ]  # fmt: skip
    _write(folder, tables, [*lines, _COUNTED], {**about, "pairs": pairs})
    for contest, table in zip(contests, tables, strict=True):
        draw_contest(contest, folder / table.picture, table.title)
    return tables


def write_ratings(
    folder: Path, rated: Sequence[Ratings], about: Mapping[str, Any], lines: Sequence[str]
) -> list[Table]:
    """Write the report of ratings."""
    from zerogate.judging.pictures import draw_ratings

    table = ratings_table(rated)
    _write(folder, [table], [*lines, _AVERAGED], {**about, "models": [model.as_dict() for model in rated]})
    draw_ratings(rated, folder / table.picture, "mean rating by category")
    return [table]


def write_reviews(folder: Path, files: Sequence[Reviews]) -> None:
    """Write the report of saved reviews."""
    from zerogate.judging.pictures import draw_reviews

    folder.mkdir(parents=True, exist_ok=True)
    tables = reviews_tables(files)
    _write(folder, tables, [], {"reviews": [reviews.as_dict() for reviews in files]})
    draw_reviews(files, folder / tables[0].picture)


def _write(folder: Path, tables: Sequence[Table], lines: Sequence[str], results: Mapping[str, Any]) -> None:
    parts = ["# Judged answers", "", *(f"{line}\n" for line in lines), *(table.markdown() for table in tables)]
    write_text(folder / "report.md", "\n".join(parts))
    write_results(folder / "results.json", results)


def _tally_row(name: str, tally: Tally) -> list[str]:
    out = str(tally.unparsed) + (f" (+{tally.missing} missing)" if tally.missing else "")
    return [name, str(tally.wins), str(tally.ties), str(tally.losses), _share(tally.win_rate, tally.interval), out]


def _bias_notes(bias: PlaceBias) -> list[str]:
    read = bias.agree + bias.disagree
    if not read:
        return []
    both = f"Both orders agree on {bias.agree} of {read} questions."
    if bias.share is None:
        return [both]
    leans = f"Where they disagree, the first place won {bias.first} of {bias.disagree} times"
    return [f"{both} {leans}: {_share(bias.share, bias.interval)}; without a bias it would be 50 %."]


def _left_out(contest: Contest) -> list[str]:
    pair = f"{contest.a} against {contest.b}"
    by = {kind: [duel.question_id for duel in contest.duels if duel.winner == kind] for kind in ("unparsed", "missing")}
    return [
        *_listed(pair, "without a verdict in a reply, and so not counted", by["unparsed"]),
        *_listed(pair, "not judged, a request failed", by["missing"]),
    ]


def _listed(name: str, what: str, questions: Sequence[str]) -> list[str]:
    count = "1 question" if len(questions) == 1 else f"{len(questions)} questions"
    return [f"{name}: {count} {what}: {', '.join(questions)}."] if questions else []


def _totals(totals: Totals) -> list[str]:
    higher = f"{totals.first_higher}, {totals.equal}, {totals.second_higher}"
    return [f"{totals.first:g}", f"{totals.second:g}", higher, str(totals.unparsed)]


def _without_empty(headings: list[str], rows: list[list[str]], name: str) -> tuple[list[str], list[list[str]]]:
    """The table without a column that is 0 in every row."""
    place = headings.index(name)
    if any(row[place] != "0" for row in rows):
        return headings, rows
    return headings[:place] + headings[place + 1 :], [row[:place] + row[place + 1 :] for row in rows]


def _mean(mean: Mean) -> str:
    if mean.mean is None or mean.interval_95 is None:
        return ""
    low, high = mean.interval_95
    return f"{mean.mean:.2f} ({low:.2f} to {high:.2f}, n={mean.rated})"


def _share(share: float | None, interval: Interval | None) -> str:
    return "" if share is None or interval is None else f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _file_name(*names: str) -> str:
    return "-vs-".join("".join(c if c.isalnum() or c in "._" else "-" for c in name).strip("-.") for name in names)
