"""One page that says how a generated set stands beside a reference: no scripts, no fonts, nothing from elsewhere.

First the verdict and what it rests on, then the table, then pictures: of features outside the band in the open, all
others folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ritornello.charts import FAINT, GRID, INK, PAPER
from ritornello.errors import counted
from ritornello.reports import pictures
from ritornello.reports.comparison import Comparison, Result, Standing
from ritornello.reports.pictures import BETWEEN, GENERATED, REFERENCE
from ritornello.reports.sets import MusicSet
from ritornello.reports.table import number

STYLE = f"""
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:76rem;padding:1rem;background:{PAPER};color:{INK};font:16px/1.45 system-ui,sans-serif}}
h1{{font-size:1.7rem;line-height:1.2;margin:.4rem 0}} h2{{margin:2.2rem 0 .6rem}}
h3,.card p{{margin:.2rem 0}}
p,ul{{max-width:46rem}} small{{color:{FAINT}}} .note{{border-left:4px solid {BETWEEN};padding-left:.8rem}}
a{{color:inherit}} li,td,h3,summary{{overflow-wrap:anywhere}}
table{{border-collapse:collapse;width:100%}} th{{text-align:left;font-weight:600;color:{FAINT}}}
th,td{{padding:.3rem .7rem .3rem 0;border-bottom:1px solid {GRID};vertical-align:middle}}
td.number{{font-variant-numeric:tabular-nums}} .inside{{color:{REFERENCE}}}
.outside{{color:{GENERATED};font-weight:600}}
td small,h3 small{{display:block;font-weight:400}} td.feature{{font-weight:600}}
.worst{{list-style:none;padding:0;max-width:none;display:grid;gap:.5rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr))}}
.worst li{{background:#fff;border:1px solid {GRID};border-left:4px solid {GENERATED};border-radius:.3rem;
padding:.5rem .7rem}} .worst small{{display:block}} .worst a{{text-decoration:none;font-weight:600}}
.cards{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,36rem),1fr));gap:1rem}}
.card{{background:#fff;border:1px solid {GRID};border-radius:.5rem;padding:.8rem;margin:0}}
img{{display:block;width:100%;height:auto;margin:.5rem 0}} summary{{cursor:pointer;padding:.4rem 0}}
.bar{{position:relative;width:150px;height:17px;border-bottom:1px solid {GRID}}}
.bar i{{position:absolute;top:2px;height:12px}} .bar .band,.key.band{{background:{REFERENCE};opacity:.25}}
.bar .interval{{top:7px;height:2px}} .bar .score{{width:8px;height:8px;top:4px;margin-left:-4px;border-radius:50%}}
.key{{display:inline-block;width:.8em;height:.8em;border-radius:.2em;margin:0 .3em 0 .8em}}
.reference>i:not(.band),.key.reference{{background:{REFERENCE}}}
.generated>i:not(.band),.key.generated{{background:{GENERATED}}} .key.inter{{background:{BETWEEN}}}
@media(max-width:46rem){{thead{{display:none}} table,tbody{{display:block}}
tr{{display:grid;grid-template-columns:1fr 1fr;gap:.1rem .4rem;border-bottom:1px solid {GRID};padding:.7rem 0}}
td{{border:0;padding:0}} td:empty{{display:none}}
td.number::before{{content:attr(data-name) " ";color:{FAINT};font-size:.9em}}
td.inside,td.outside{{grid-row:1;grid-column:2;text-align:right}} td.bars{{grid-column:1/3}}
td.number{{white-space:nowrap}} td.number small{{display:inline}}}}
"""
COLUMNS = ("feature", "reference", "generated", "overlap area", "OA", "KLD", "energy", "human band")
SCORE_NAMES = {"oa_reference": "by overlap area", "oa_generated": "by overlap area", "energy": "by energy"}
MOST_NAMED = 6
SIDES = {"reference": "reference", "generated": "generated"}


def page(comparison: Comparison) -> str:
    n, of = comparison.inside, len(comparison.results)
    body = [
        f"<h1>{n} of {counted(of, 'features')} inside the human band</h1>",
        f"<p>{_pieces(comparison.generated)} beside {_pieces(comparison.reference)} as the reference.</p>",
        *_summary(comparison),
        *(f'<p class="note">{escape(line)}</p>' for line in comparison.warnings()),
        *_table(comparison),
        *_features(comparison),
        *_curves(comparison),
        *_rolls(comparison),
        *_left_out(comparison),
        *_explained(comparison),
    ]
    text = "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light">',
            f"<title>{n} of {counted(of, 'features')} inside the human band</title>",
            f"<style>{STYLE}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )
    return text.encode("utf-8", "replace").decode()  # the names of files need not be text


def _summary(comparison: Comparison) -> Iterator[str]:
    outside = comparison.outside()
    if not outside:
        yield "<p>No feature tells so many of these pieces from the reference's.</p>"
    else:
        names = counted(len(outside), "features") + (" tells" if len(outside) == 1 else " tell")
        furthest = f", these {MOST_NAMED} the best" if len(outside) > MOST_NAMED else ""
        yield f"<p>{names} them from the reference{furthest}:</p>"
        yield f'<ul class="worst">{"".join(map(_worst, outside[:MOST_NAMED]))}</ul>'
    if comparison.above is not None:
        (near, far), (generated_near, generated_far) = comparison.above
        yield (
            f"<p>Repetition: {generated_near:.0%} of all windows of 10 s repeat more of the last 30 s than 95% of the "
            f"reference's pieces do there (its own: {near:.0%}), {generated_far:.0%} more of what is longer ago (its "
            f"own: {far:.0%}).</p>"
        )


def _worst(result: Result) -> str:
    means = result.means
    change = f": {number(means[1])} instead of {number(means[0])} {escape(result.feature.unit)}" if means else ""
    return (
        f'<li><a href="#{escape(_anchor(result))}">{escape(result.feature.name)}</a> '
        f'<span class="outside">{result.widths:.1f} widths</span>'
        f"<small>{escape(result.feature.about)}{change}</small></li>"
    )


def _anchor(result: Result) -> str:
    return f"feature-{result.feature.name}"


def _key(**names: str) -> str:
    marks = "".join(f'<span class="key {kind}"></span>{name}' for kind, name in names.items())
    return f"<p>{marks}</p>"


def _pieces(side: MusicSet) -> str:
    return f"{counted(len(side.names), 'pieces')} of <b>{escape(str(side.folder))}</b>"


def _table(comparison: Comparison) -> Iterator[str]:
    inside = [result for result in comparison.results.values() if result.inside]
    yield f"<h2>All features</h2>\n{_key(**SIDES, band='human band')}"
    yield f"<table><thead><tr>{''.join(f'<th>{name}</th>' for name in COLUMNS)}</tr></thead><tbody>"
    for result in (*comparison.outside(), *inside):
        yield f"<tr>{''.join(_cells(result))}</tr>"
    yield "</tbody></table>"


def _cells(result: Result) -> Iterator[str]:
    means = ("", "") if result.means is None else tuple(map(number, result.means))
    overlaps = " ".join(f"{result.figures[f'oa_{name}']['score']:.2f}" for name in SIDES)
    unit = f" ({escape(result.feature.unit)})" if means[0] and result.feature.unit not in result.feature.about else ""
    name = f"{escape(result.feature.name)}<small>{escape(result.feature.about)}{unit}</small>"
    reason = "" if result.inside else f"<small>{SCORE_NAMES[result.figures['verdict']['score']]}</small>"
    for heading, kind, text in (
        ("feature", "feature", name),
        ("reference", "number", means[0]),
        ("generated", "number", means[1]),
        ("overlap area", "bars", _overlap_bars(result)),
        ("OA", "number", overlaps),
        ("KLD", "number", f"{result.figures['kld']['score']:.3f}"),
        ("energy", "number", f"{result.energy:.3f} <small>≤ {result.figures['energy']['null'][2]:.3f}</small>"),
        ("human band", "inside" if result.inside else "outside", result.verdict + reason),
    ):
        yield f'<td class="{kind}" data-name="{heading}">{text}</td>'


def _features(comparison: Comparison) -> Iterator[str]:
    key = _key(**SIDES, inter="between the sets")
    outside, inside = comparison.outside(), [result for result in comparison.results.values() if result.inside]
    if outside:
        yield f"<h2>Outside the human band</h2>\n{key}"
        yield f'<div class="cards">{"".join(map(_card, outside))}</div>'
    if inside:
        yield f"<h2>Inside the human band</h2>\n<details><summary>{counted(len(inside), 'features')}</summary>\n{key}"
        yield f'<div class="cards">{"".join(map(_card, inside))}</div></details>'


def _card(result: Result) -> str:
    return (
        f'<section class="card" id="{escape(_anchor(result))}"><h3>{escape(result.feature.name)} '
        f"<small>{escape(result.feature.about)} · {result.verdict}</small></h3>"
        f"{pictures.feature(result)}</section>"
    )


def _overlap_bars(result: Result) -> str:
    """Both overlap areas from 0 to 1: the null's band, the interval as a line, the score as a dot."""
    bars = []
    for name in SIDES:
        figures = result.figures[f"oa_{name}"]
        (low, high), (null_low, _, null_high), score = figures["interval"], figures["null"], figures["score"]
        parts = (("band", null_low, null_high), ("interval", low, high), ("score", score, None))
        marks = (_mark(kind, left, right) for kind, left, right in parts)
        bars.append(f'<div class="bar {name}" role="img" aria-label="overlap area {score:.2f}">{"".join(marks)}</div>')
    return "".join(bars)


def _mark(kind: str, left: float, right: float | None) -> str:
    width = "" if right is None else f";width:max(2px,{100 * (right - left):.1f}%)"
    return f'<i class="{kind}" style="left:{100 * left:.1f}%{width}"></i>'


def _curves(comparison: Comparison) -> Iterator[str]:
    cards = []
    if {"near_repetition", "far_repetition"} & comparison.results.keys():
        cards.append(pictures.repetition_over_time(comparison))
    if "structure_curve" in comparison.results:
        cards.append(pictures.structure(comparison.results["structure_curve"]))
    if cards:
        key = _key(**SIDES, band="90% of the reference's pieces")
        sections = "".join(f'<section class="card">{card}</section>' for card in cards)
        yield f'<h2>Repetition and structure</h2>\n{key}<div class="cards">{sections}</div>'


def _rolls(comparison: Comparison) -> Iterator[str]:
    for heading, standings in (
        ("Most typical generated pieces", comparison.typical()),
        ("Least typical generated pieces", comparison.atypical()),
    ):
        yield f'<h2>{heading}</h2>\n<div class="cards">'
        for standing in standings:
            yield _roll(comparison, standing)
        yield "</div>"


def _roll(comparison: Comparison, standing: Standing) -> str:
    piece = comparison.generated.measured[comparison.generated.names.index(standing.name)].piece
    return (
        f'<section class="card"><h3>{escape(standing.name)}</h3>'
        f"<p><small>{standing.distance:.2f} times as far from the reference as its pieces are from each other; "
        f"furthest in {escape(standing.furthest)} ({standing.furthest_distance:.2f})</small></p>"
        f"{pictures.piano_roll(piece, standing.name)}</section>"
    )


def _left_out(comparison: Comparison) -> Iterator[str]:
    for side in (comparison.reference, comparison.generated):
        if side.skipped:
            files = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in side.skipped)
            yield f"<h2>Left out of {escape(str(side.folder))}</h2><ul>{files}</ul>"
    if comparison.same:
        pairs = "".join(f"<li>{escape(second)} is {escape(first)}</li>" for first, second in comparison.same)
        yield f"<h2>On both sides</h2><ul>{pairs}</ul>"


def _explained(comparison: Comparison) -> Iterator[str]:
    yield (
        "<h2>How to read this</h2><p>For each feature, distances between all pieces are taken: within the reference, "
        "within the generated set, and between the sets. An <b>overlap area</b> (OA) near 1 means that pieces of both "
        "sets are as far from each other as pieces of one; the first is with the reference's own distances, the second "
        "with the generated set's. The line is a 95% bootstrap interval. <b>Energy</b> is how much further, on the "
        "mean, pieces of different sets are from each other than pieces of one, as a share: 0 for sets alike, 1 for "
        "sets with nothing in common. It sees a level that moved, which overlap areas hardly do; behind ≤ is the end "
        "of its band.</p>"
    )
    yield (
        "<p>The <b>human band</b> holds 95% of what random halves of the reference score. Inside it (no overlap area "
        "below, energy not above) this feature cannot tell so many pieces from people's; outside, the distance is "
        "given in widths of the band. <b>KLD</b> is the divergence between the distances within the reference and "
        "those between the sets, in nats, 0 where they are alike. Of features with several entries the mean of the "
        f"entries is shown, of histograms none. Resampled with seed {comparison.seed}.</p>"
    )
