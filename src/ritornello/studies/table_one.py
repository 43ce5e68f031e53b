"""Sets of pieces that a study's runs play, beside people's: table I of PerceiverS (arXiv 2411.08307), by feature."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ritornello import codec
from ritornello.corpus import Corpus, PieceRecord
from ritornello.errors import RitornelloError, check_limits, counted
from ritornello.metrics.comparison import TOLERANCE
from ritornello.metrics.registry import select
from ritornello.performing import load
from ritornello.reports import Comparison, compare_folders, draw_repetition
from ritornello.reports.sets import LEAST_PIECES, Progress
from ritornello.reports.table import markdown_table, repetition_tables, sets_table
from ritornello.sampling import Sampling
from ritornello.studies.record import Record, read_records, run_name, training_path
from ritornello.studies.study import claim, data_of

PEOPLE = "other people"
FEATURES = tuple(feature.name for feature in select(["perceivers"]))
PAPER_TOKENS = 8192
PAPER_HIGHER = {
    "effective segmentation": ("PC", "NC", "PCTM", "PR", "PI", "IOI", "NLTM", "PC/seg", "NC/seg", "IOI/seg"),
    "multi-scale": ("PCH", "IOI", "NLH", "NLTM", "PCH/seg", "IOI/seg"),
}
"""in which features the paper's section VI-B finds the overlap area of each step higher than before it"""
PAPER_MEAN = {"multi-scale": "+40%"}
"""by how much the overlap area is above the baseline's on average (section I)"""

Say = Callable[[str], None]
Compared = Mapping[str, Sequence[Comparison]]
"""the comparisons of each row's runs with the reference, in the order of columns; `PEOPLE` first where they are"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which sets are played, and how. Raises RitornelloError outside its limits."""

    rows: Sequence[str] = ()
    """only these; none: all whose runs are done"""
    pieces: int
    """of each set; piece n is drawn with seed n from every model"""
    tokens: int
    """of a piece, unless the model ends it before"""
    sampling: Sampling

    def __post_init__(self) -> None:
        check_limits(pieces=(self.pieces, 1, 10**6), tokens=(self.tokens, 1, 10**6))


@dataclass(frozen=True)
class Sets:
    """Folders of MIDI files, and what is alike of all."""

    human: Sequence[Path]
    """the reference and, where the corpus holds out enough titles, a second set"""
    played: Mapping[tuple[str, int], Path]
    """by row and seed"""
    corpus: str
    """name of that which people's pieces are of"""
    plan: Plan


def play_set(
    model: str,
    folder: Path,
    sampling: Sampling,
    *,
    pieces: int,
    tokens: int,
    title: str = "",
    first_seed: int = 0,
    engine: str = "torch",
    threads: int | None = None,
    say: Say = lambda _: None,
) -> None:
    """Plays what is missing of ``folder/000.mid`` and on, each of so many tokens or to its end.

    Piece n has the seed ``first_seed`` + n; ``model``, ``engine`` and ``threads`` are those of `performing.load`, which
    says what is raised. ``say`` is called with one line after each piece.
    """
    missing = [n for n in range(pieces) if not _path(folder, n).exists()]
    performer = load(model, engine=engine, sampling=sampling, threads=threads) if missing else None
    for number in missing:
        assert performer is not None
        seed = first_seed + number
        events = islice(performer.events(np.random.default_rng(seed)), tokens)
        piece = codec.decode(np.array([token for token, _ in events], np.uint16))
        path = _path(folder, number)
        folder.mkdir(parents=True, exist_ok=True)
        replace(piece, title=f"{title or model}, piece {number}").write(path)
        say(f"{path}: {counted(len(piece), 'notes')}, {piece.seconds:,.0f} s")


def play_sets(out: Path, study: str, plan: Plan, say: Say = lambda _: None) -> None:
    """Plays what is not there yet of ``out/sets/ROW-seed-N/*.mid``, from the best checkpoint of every run.

    Raises:
        RitornelloError: for a row or a checkpoint that is not there, or sets that were played otherwise.
    """
    records = _records(out, study, plan)
    claim(out / "sets", {"study": study, "tokens": plan.tokens, **asdict(plan.sampling)})
    for run in records:
        play_set(
            str(training_path(out, run.row, run.seed) / "best"),
            _folder(out, run),
            plan.sampling,
            pieces=plan.pieces,
            tokens=plan.tokens,
            title=f"{run.row}, seed {run.seed}",
            say=say,
        )


def make_sets(corpus: Corpus, out: Path, study: str, plan: Plan, say: Say = lambda _: None) -> Sets:
    """`play_sets`, and people's beside them: what is not there yet of ``out/sets/human`` and ``out/sets/human-2``.

    People's pieces are held out from the runs' training, one performance of a title, cut to as many tokens.

    Raises:
        RitornelloError: as `play_sets`, and, before anything is written, for fewer than 4 pieces, another corpus than
            the runs', one that holds out too few titles, or a folder that holds more pieces.
    """
    check_limits(pieces=(plan.pieces, LEAST_PIECES, 10**6))
    records = _records(out, study, plan)
    _check_same_data(corpus, records)
    human = dict(zip((out / "sets/human", out / "sets/human-2"), held_out(corpus, plan.pieces)))
    sets = Sets([*human], {(run.row, run.seed): _folder(out, run) for run in records}, corpus.name, plan)
    for folder in (*human, *sets.played.values()):
        if (count := len([*folder.glob("*.mid")])) > plan.pieces:
            raise RitornelloError(
                f"{folder}: holds {counted(count, 'pieces')}, not {plan.pieces}; ask for as many, or move it away"
            )
    claim(out / "sets", {"study": study, "tokens": plan.tokens, **asdict(plan.sampling)})
    claim(sets.human[0], {"study": study, **data_of(corpus)})
    for folder, pieces in human.items():
        folder.mkdir(parents=True, exist_ok=True)
        for number, piece in enumerate(pieces):
            if not (path := _path(folder, number)).exists():
                replace(codec.decode(corpus.tokens(piece)[: plan.tokens]), title=piece.file).write(path)
        say(f"{folder}: {counted(len(pieces), 'pieces')}")
    play_sets(out, study, plan, say)
    return sets


def held_out(corpus: Corpus, pieces: int) -> list[list[PieceRecord]]:
    """One or two disjoint sets of titles; more ``pieces`` add to each and change none."""
    rng = np.random.default_rng(0)
    records = [record for record in corpus.records if record.split != "train"]
    of_title = {(records[i].composer, records[i].title): records[i] for i in rng.permutation(len(records))}
    titles = sorted(of_title)
    drawn = [of_title[titles[i]] for i in rng.permutation(len(titles))]
    if len(drawn) < pieces:
        raise RitornelloError(
            f"{corpus.path}: its validation and test splits hold {len(drawn)} titles, too few for {pieces} pieces; ask "
            "for fewer"
        )
    return [drawn[:pieces], drawn[: -pieces - 1 : -1]][: 1 if len(drawn) < 2 * pieces else 2]


def _records(out: Path, study: str, plan: Plan) -> list[Record]:
    """The finished runs of the rows."""
    records = read_records(out, study)
    done = dict.fromkeys(record.row for record in records)
    for row in plan.rows:
        if row not in done:
            raise RitornelloError(f"{out}: no run of the row {row!r} is done; there are {'; '.join(done)}")
    return [record for record in records if not plan.rows or record.row in plan.rows]


def _check_same_data(corpus: Corpus, records: list[Record]) -> None:
    """Pieces that another corpus holds out, a run may have been trained on."""
    for run in records:
        settings = run.settings
        if {"corpus": settings.corpus, "corpus_tokens": settings.corpus_tokens} != data_of(corpus):
            raise RitornelloError(
                f"{corpus.path}: is not what {run.row}, seed {run.seed}, was trained on: {settings.corpus}, "
                f"{settings.corpus_tokens['train']:,} tokens to train on; give that corpus"
            )


def _folder(out: Path, run: Record) -> Path:
    return out / "sets" / run_name(run.row, run.seed)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:03}.mid"


# ---- the table ----


def compare_sets(
    sets: Sets, rows: Iterable[str], *, jobs: int | None = None, progress: Progress | None = None
) -> Compared:
    """Every set beside the reference, in the order of ``rows``; the rest as in `compare_folders`."""
    reference, *others = sets.human
    folders = [*others, *sets.played.values()]
    wanted = (*FEATURES, "near_repetition", "far_repetition")
    comparisons = compare_folders(reference, folders, wanted, jobs=jobs, progress=progress)
    by_folder = {folder: _shortly_named(comparison) for folder, comparison in zip(folders, comparisons)}
    names = {PEOPLE: others}
    names |= {row: [path for (name, _), path in sorted(sets.played.items()) if name == row] for row in rows}
    return {name: [by_folder[path] for path in paths] for name, paths in names.items() if paths}


def _shortly_named(comparison: Comparison) -> Comparison:
    sides = {name: getattr(comparison, name) for name in ("reference", "generated")}
    return replace(comparison, **{name: replace(side, folder=Path(side.folder.name)) for name, side in sides.items()})


class Score(NamedTuple):
    """Of one row in one feature, the means over seeds."""

    oa: float
    kld: float
    kld_mgeval: float
    outside: bool
    """of the band, with every seed"""
    oa_more: float | None
    """share by which the overlap area is above the baseline's; None of the baseline, of people, and above nothing"""

    @property
    def text(self) -> str:
        scores = _text(self.oa, self.kld, self.kld_mgeval)
        return f"**{scores}**" if self.outside else scores


Scores = Mapping[str, Mapping[str, Score]]  # by row and feature


def scores_of(compared: Compared, baseline: str) -> Scores:
    """Every row's; ``baseline`` is the row that others' areas are compared with."""

    def mean(row: str, feature: str, score: str) -> float:
        return statistics.fmean(comparison.results[feature].figures[score]["score"] for comparison in compared[row])

    def score(row: str, feature: str) -> Score:
        oa, alone = mean(row, feature, "oa_reference"), row in (baseline, PEOPLE) or baseline not in compared
        theirs = 0 if alone else mean(baseline, feature, "oa_reference")
        return Score(
            oa=oa,
            kld=mean(row, feature, "kld"),
            kld_mgeval=mean(row, feature, "kld_mgeval"),
            outside=not any(comparison.results[feature].inside for comparison in compared[row]),
            oa_more=oa / theirs - 1 if theirs > TOLERANCE else None,
        )

    return {row: {feature: score(row, feature) for feature in FEATURES} for row in compared}


def mean_more(scores: Mapping[str, Score]) -> float | None:
    """Over the features of a row."""
    known = [score.oa_more for score in scores.values() if score.oa_more is not None]
    return statistics.fmean(known) if known else None


def figures(sets: Sets, compared: Compared, baseline: str) -> dict[str, Any]:
    """Scores of each row and feature, and all that is known of each set, as JSON-able values."""
    scores = scores_of(compared, baseline)
    return {
        **{"corpus": sets.corpus, "pieces": sets.plan.pieces, "tokens": sets.plan.tokens},
        **asdict(sets.plan.sampling),
        "baseline": baseline,
        "rows": {row: {name: score._asdict() for name, score in of_row.items()} for row, of_row in scores.items()},
        "mean_oa_more": {row: mean_more(of_row) for row, of_row in scores.items()},
        "sets": [comparison.figures() for comparison in _each(compared)],
    }


def markdown(sets: Sets, compared: Compared, baseline: str) -> str:
    """The section of a report on what the models play."""
    scores, comparisons = scores_of(compared, baseline), _each(compared)
    lines = [[feature, *(of_row[feature].text for of_row in scores.values())] for feature in FEATURES]
    means = [np.mean([score[:3] for score in of_row.values()], axis=0) for of_row in scores.values()]
    lines.append(["mean", *(_text(*mean) for mean in means)])
    parts = [
        "## What the models play",
        *sets_table(comparisons),
        markdown_table(("OA / KLD / KLD of mgeval", *scores), lines),
        "Overlap area, and KL divergence in nats on one grid and in mgeval's way (each density on its own), of the "
        "distances within the reference and those between the sets; the means over seeds. **Bold** is outside the "
        "band of random halves of the reference with every seed.",
        *_beside_paper(scores, baseline),
        *repetition_tables(comparisons),
        _notes(sets, comparisons),
    ]
    return "\n\n".join(parts) + "\n"


def _beside_paper(scores: Scores, baseline: str) -> list[str]:
    """By how much each row's overlap areas are above the baseline's, beside what the paper's text says of its own."""
    columns = [["OA more than the baseline's", *FEATURES, "mean"]]
    for row, of_row in scores.items():
        if (mean := mean_more(of_row)) is not None:
            columns.append([row, *(_percent(of_row[feature].oa_more) for feature in FEATURES), _percent(mean)])
            if higher := PAPER_HIGHER.get(row):
                marks = ("higher" if feature in higher else "" for feature in FEATURES)
                columns.append(["paper", *marks, PAPER_MEAN.get(row, "")])
    header, *lines = zip(*columns)
    if len(header) == 1:
        return [f"No set of {baseline} beside another: nothing to compare overlap areas with."]
    words = (
        f"By how much the overlap area is above that of {baseline}, the baseline; empty, and left out of the mean, "
        f"where that is below {TOLERANCE:g}."
    )
    if "paper" in header:
        words += (
            " Paper: where its section VI-B says that a step made the area higher, and the mean over features of "
            "its section I; the figures of its table I were not at hand."
        )
    return [markdown_table(header, lines), words]


def _text(*scores: float) -> str:
    return " / ".join(f"{score:.3f}" for score in scores)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"


def _notes(sets: Sets, comparisons: Sequence[Comparison]) -> str:
    pieces, tokens = sets.plan.pieces, sets.plan.tokens
    second = f"{PEOPLE} are {pieces} more" if len(sets.human) > 1 else "there are too few titles for a second such set"
    drawn = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in asdict(sets.plan.sampling).items())
    lines = [
        f"Reference: {pieces} pieces of the validation and test splits of {sets.corpus}, one performance of a title, "
        f"each cut to {tokens:,} tokens; {second}.",
        f"Played: {pieces} pieces of {tokens:,} tokens, or to their end, from the best checkpoint of each run; piece n "
        f"with seed n, {drawn}.",
        *([] if tokens == PAPER_TOKENS else [f"Not equal to the paper: its pieces have {PAPER_TOKENS:,} tokens."]),
        *dict.fromkeys(line for comparison in comparisons for line in comparison.warnings()),
    ]
    return "\n".join(f"- {line}" for line in lines)


def draw(compared: Compared, path: Path) -> None:
    """Repetition over time of the reference and every set (see `draw_repetition`)."""
    comparisons = _each(compared)
    sides = [comparisons[0].reference, *(comparison.generated for comparison in comparisons)]
    draw_repetition({str(side.folder): side for side in sides}, path)


def _each(compared: Compared) -> list[Comparison]:
    return [comparison for comparisons in compared.values() for comparison in comparisons]
