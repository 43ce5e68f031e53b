"""The repeat test: does a model foresee a passage better when it hears it again, and after how long a gap?

A piece is read up to a passage, through the passage and through a gap of what follows it; then the passage is played
again, event for event. The gain is how many nats/token less the second time takes than the first. Whatever a memory
holds, only what it is used for shows here; gaps beyond every horizon show what is remembered by other means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello import codec
from ritornello.codec.grammar import NO_VELOCITY
from ritornello.codec.vocabulary import MAX_SHIFT_STEPS, SHIFT, VELOCITY
from ritornello.corpus import Corpus, PieceRecord
from ritornello.errors import RitornelloError

LEAD_TOKENS = 600  # before the passage
PASSAGE_TOKENS = 160
HEARD_TOKENS = LEAD_TOKENS + PASSAGE_TOKENS
COMPARED_TOKENS = 128  # the last of the passage: by its first ones a listener knows that it returns
GAPS_TOKENS = (0, 64, 200, 400, 800, 1600, 3200, 10_000)
PIECES = 16


@dataclass(frozen=True)
class Recall:
    """What hearing a passage again is worth after one gap."""

    gap_tokens: int
    gains: tuple[float, ...]
    """of every piece, in nats/token"""

    @property
    def gain(self) -> float:
        """Mean over the pieces, in nats/token."""
        return float(np.mean(self.gains))

    def figures(self) -> dict[str, Any]:
        """As JSON-able values; ``low`` and ``high`` hold the mean of 95 % of samples of as many pieces (bootstrap)."""
        draws = np.random.default_rng(0).choice(self.gains, (2000, len(self.gains))).mean(axis=1)
        low, high = np.quantile(draws, (0.025, 0.975))
        counts = {"gap_tokens": self.gap_tokens, "pieces": len(self.gains)}
        return {**counts, "gain": self.gain, "low": float(low), "high": float(high)}


def repeat_test(
    model: Any,
    corpus: Corpus,
    split: str,
    *,
    legal: bool,
    gaps_tokens: tuple[int, ...] = GAPS_TOKENS,
    most_pieces: int = PIECES,
    progress: Callable[[int, int], None] | None = None,
) -> list[Recall]:
    """What hearing a passage of 160 tokens again is worth, for every gap.

    Args:
        model: a `Model`; its training mode is restored afterwards.
        corpus: the packed corpus.
        split: train, validation or test.
        legal: mask illegal events before the softmax.
        gaps_tokens: tokens between the passage's end and its return, ascending.
        most_pieces: so many titles are read, the longest, one performance of each. A gap is measured where it fits.
        progress: called with gaps done and gaps in all.

    Raises:
        RitornelloError: if no piece of the split is long enough.
    """
    import torch

    records = _longest(corpus, split, most_pieces, more_than=HEARD_TOKENS + min(gaps_tokens))
    texts = [corpus.tokens(record).astype(np.int64) for record in records]
    was_training, recalls = model.training, []
    model.eval()
    try:
        with torch.no_grad():
            first, _ = _read(model, model.initial_state(len(texts)), [text[:HEARD_TOKENS] for text in texts], 0, legal)
            state, read = model.initial_state(len(texts)), 0
            for gap in gaps_tokens:
                fits = [lane for lane, text in enumerate(texts) if len(text) > HEARD_TOKENS + gap]
                if not fits:
                    break
                # A lane reads its own last token with the return: where it is a velocity, it is left out there.
                border = HEARD_TOKENS + gap - 1
                _, state = _read(model, state, [text[:border] for text in texts], read, legal)
                read, returns = border, [_returning(text[: border + 1]) for text in texts]
                spliced = [np.concatenate([text[:border], events]) for text, (events, _) in zip(texts, returns)]
                again, _ = _read(model, state, spliced, border, legal)
                gains = tuple(_gain(first[lane, LEAD_TOKENS:], again[lane], returns[lane][1]) for lane in fits)
                recalls.append(Recall(gap, gains))
                if progress is not None:
                    progress(len(recalls), len(gaps_tokens))
    finally:
        model.train(was_training)
    return recalls


def draw_repeats(recalls: list[Recall], path: Path) -> None:
    """The gain against the gap, with its interval, as a picture (.png or .svg)."""
    from ritornello.charts import COLOURS, new_figure, save

    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    rows = [recall.figures() for recall in recalls]
    gaps = [row["gap_tokens"] for row in rows]
    axes.fill_between(gaps, [row["low"] for row in rows], [row["high"] for row in rows], color=COLOURS[1], alpha=0.2)
    axes.plot(gaps, [row["gain"] for row in rows], "o-", color=COLOURS[1])
    gap_axis(axes)
    save(figure, path)


def gap_axis(axes: Any) -> None:
    """Axes of a picture of gains against gaps."""
    axes.axhline(0, lw=0.8, color="black")
    axes.set_xscale("symlog", linthresh=50)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(title="The repeat test", xlabel="gap before the passage returns, tokens", ylabel="gain, nats/token")


def played_again(passage: ArrayLike, *, velocity: int, current: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A passage cut out of a piece as legal events for a place where no key sounds.

    Releases of keys that it did not strike, velocities that do not change and the silence before its first event are
    left out, and shifts that then meet are joined.

    Args:
        passage: (T,) legal events.
        velocity: the bin before it, where it was cut out.
        current: the bin where it goes.

    Returns:
        The events (T',), and for each of the T events where it stands among them, -1 where it was left out or joined.
    """
    events: list[int] = []
    places = np.full(len(np.asarray(passage)), -1)
    sounding: set[int] = set()
    for i, token in enumerate(np.asarray(passage).tolist()):
        if token < codec.NOTE_OFF:
            sounding.add(token)
            if velocity != current:
                events.append(VELOCITY + velocity)
                current = velocity
        elif token < SHIFT:
            if token - codec.NOTE_OFF not in sounding:
                continue
            sounding.remove(token - codec.NOTE_OFF)
        elif token < VELOCITY:
            if not events:
                continue
            if SHIFT <= events[-1] < VELOCITY - 1:
                places[places == len(events) - 1] = -1
                steps = events.pop() + token - 2 * SHIFT + 2
                events += [VELOCITY - 1] * (steps > MAX_SHIFT_STEPS)
                events.append(SHIFT + (steps - 1) % MAX_SHIFT_STEPS)
                continue
        else:
            velocity = token - VELOCITY
            if velocity == current:
                continue
            current = velocity
        places[i] = len(events)
        events.append(token)
    return np.array(events, np.int64), places


def _returning(text: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What a lane reads from its last token on: that token, an end to what sounds, a second, the passage again.

    Returns:
        The events (T',), and where each of the passage's events stands among them; -1 for none.
    """
    start, stop = LEAD_TOKENS, LEAD_TOKENS + PASSAGE_TOKENS
    read = text if text[-1] < VELOCITY else text[:-1]
    now = codec.Grammar()
    for token in read.tolist():
        now.advance(token)
    keys = np.flatnonzero(now.sounding)
    joint = [SHIFT] if len(keys) and not now.legal()[codec.NOTE_OFF + keys].all() else []
    joint += (codec.NOTE_OFF + keys).tolist()
    if joint or not SHIFT <= read[-1] < VELOCITY - 1:
        joint.append(VELOCITY - 1)
    events, places = played_again(text[start:stop], velocity=_bin_after(text[:start]), current=_bin_after(read))
    ended = np.concatenate([read[len(text) - 1 :], np.array(joint, np.int64)])
    return np.concatenate([ended, events]), np.where(places >= 0, places + len(ended), -1)


def _bin_after(tokens: NDArray[np.int64]) -> int:
    """The velocity bin that holds after some events."""
    velocities = tokens[(tokens >= VELOCITY) & (tokens < codec.END)]
    return int(velocities[-1]) - VELOCITY if len(velocities) else NO_VELOCITY


def _gain(first: NDArray[np.floating], again: NDArray[np.floating], places: NDArray[np.int64]) -> float:
    compared = np.arange(len(places)) >= PASSAGE_TOKENS - COMPARED_TOKENS
    both = compared & (places >= 0)
    return float(np.mean(first[both] - again[places[both]]))


def _read(
    model: Any, state: Any, texts: list[NDArray[np.int64]], start: int, legal: bool
) -> tuple[NDArray[np.float64], Any]:
    """Nats of every lane's tokens from ``start`` on, (B, T) with zeros behind shorter texts, and the state after."""
    import torch

    from ritornello.likelihood import to_device, token_nats

    width = max(len(text) for text in texts) - start
    rows, targets, contexts = [], np.full((len(texts), width), codec.PAD), []
    for lane, text in enumerate(texts):
        targets[lane, : max(0, len(text) - start)] = text[start:]
        padded = np.concatenate([text, np.full(start + width - len(text), codec.END)])
        hints = codec.hints(padded, notes=model.config.motif_notes)[start:] if model.config.motif_notes else None
        rows.append(codec.with_hints(np.concatenate([[codec.START], padded[:-1]])[start:], hints))
        if legal:
            contexts.append([field[start:] for field in codec.contexts(padded)])
    context = codec.Context(*(np.stack(fields) for fields in zip(*contexts))) if legal else None
    losses, parts = [], torch.from_numpy(np.stack(rows)).to(model.device)
    for first in range(0, width, 1024):
        part = slice(first, first + 1024)
        logits, state = model(parts[:, part], state)
        of_part = codec.Context(*(field[:, part] for field in context)) if context is not None else None
        wanted = torch.from_numpy(targets[:, part]).to(model.device)
        losses.append(token_nats(logits, wanted, to_device(of_part, model.device)).cpu().double().numpy())
    return np.concatenate(losses, axis=1) if losses else np.zeros((len(texts), 0)), state


def _longest(corpus: Corpus, split: str, most: int, *, more_than: int) -> list[PieceRecord]:
    """The longest performance of each of the titles of the longest."""
    of_titles: dict[tuple[str, str], PieceRecord] = {}
    for record in sorted(corpus.pieces(split), key=lambda record: -record.tokens):
        if record.tokens > more_than:
            of_titles.setdefault((record.composer, record.title), record)
    if not of_titles:
        raise RitornelloError(f"{corpus.path}: no piece of {split} has the {more_than:,} tokens of the repeat test")
    return list(of_titles.values())[:most]
