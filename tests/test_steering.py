"""Steering: labels of what follows, told in training to some segments, and to players what one asks for."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line
from scripted import Scripted, notes, shift
from tiny import made_up_tokens, random_model, save_model, write_corpus

from ritornello import codec
from ritornello.checkpoint import load_checkpoint
from ritornello.codec import steering
from ritornello.corpus import Corpus
from ritornello.engines import load_engine
from ritornello.evaluation import evaluate
from ritornello.feed import Lanes
from ritornello.midi import read_midi
from ritornello.models import from_checkpoint, with_inputs
from ritornello.notes import Piece
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.training.loop import COMPOSER_PERFORMANCES, train
from ritornello.training.recipes import recipe_named

LABELS = steering.labels(("Bach", "Chopin"), ("rolls",))


def test_the_steps_describe_the_seconds_from_a_token_on() -> None:
    """Two strikes a second for 20 s, soft and low, then ten a second, loud and high, for 20 s: told by hand."""
    onset = np.r_[np.arange(0, 20, 0.5), np.arange(20, 40, 0.1)]
    is_late = onset >= 20
    pitch, velocity = np.where(is_late, 90, 40), np.where(is_late, 110, 20)
    piece = Piece(onset, onset + 0.05, pitch.astype(np.uint8), velocity.astype(np.uint8))
    tokens = codec.encode(piece)
    found = steering.following(tokens)
    at_s = codec.steps_of(tokens) / 100
    assert found.shape == (len(tokens), 3)
    slow, fast = (1, 1, 1), (3, 7, 7)  # 2 and 10 strikes a second, velocity 20 and 110, pitch 40 and 90
    assert {tuple(row) for row in found[at_s < 11.9]} == {slow}
    assert {tuple(row) for row in found[(at_s > 20.1) & (at_s < 37.9)]} == {fast}
    between = found[(at_s > 12.6) & (at_s < 19.5)]
    assert (np.diff(between[:, 1:], axis=0) >= 0).all()  # the nearer the change, the more of it lies ahead
    assert not found[at_s > 38.1].any(), "less than two seconds tell nothing"


def test_steps_equal_those_counted_note_by_note() -> None:
    tokens = made_up_tokens(5, 90)[0]
    found = steering.following(tokens)
    decoded = codec.decode(tokens)
    end_s = codec.seconds_of(tokens)
    now_s = np.r_[0, codec.steps_of(tokens)[:-1]] / 100
    at_least = set()
    for place in range(len(tokens)):
        # Before a shift all that is struck in its step has been.
        if not codec.SHIFT <= tokens[place] < codec.VELOCITY or end_s - now_s[place] < steering.LEAST_S:
            continue
        ahead = (decoded.onset > now_s[place] + 0.005) & (decoded.onset < now_s[place] + steering.AHEAD_S - 0.005)
        seconds = min(steering.AHEAD_S, end_s - now_s[place])
        values = ahead.sum() / seconds, decoded.velocity[ahead].mean(), decoded.pitch[ahead].mean()
        steps = [1 + sum(value >= edge for edge in edges) for value, edges in zip(values, steering.EDGES.values())]
        assert found[place].tolist() == steps
        at_least.update(steps)
    assert len(at_least) > 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Ten pieces of two composers, every third from rolls."""
    made = write_corpus(
        tmp_path_factory.mktemp("steering") / "corpus",
        {"train": made_up_tokens(1, *[60] * 10), "validation": made_up_tokens(2, 40)},
    )
    made.manifest["sources"] = [{"name": name, "licence": "CC0", "weight": 1.0} for name in ("asap", "rolls")]
    made.records = [
        replace(r, composer="Bach" if n % 2 else "Chopin", source=int(n % 3 == 2)) for n, r in enumerate(made.records)
    ]
    return made


def test_lanes_tell_half_of_the_labels_of_some_segments_and_always_the_source(corpus: Corpus) -> None:
    lanes = Lanes(corpus, "train", lanes=4, segment_tokens=16, motif_notes=32, labels=LABELS, label_share=0.6)
    counts, of_source, told_nothing = np.zeros(steering.COLUMNS), [], 0
    for batch in islice(lanes, 200):
        assert batch.inputs.shape == (4, 16, 1 + codec.HINT_COLUMNS + steering.COLUMNS)
        for i in range(4):
            record, rows = lanes.records[batch.piece[i]], batch.inputs[i, :, -steering.COLUMNS :]
            tokens = lanes.corpus.tokens(record)
            start = int(batch.position[i])
            length = min(16, len(tokens) - start)
            names = np.array(["", *LABELS])[rows[:length]]
            assert set(names[:, 0]) <= {"", f"composer={record.composer}"}
            assert set(names[:, 1]) == {"source=rolls" if record.source else ""}
            steps = steering.following(tokens)[start : start + length]
            for column, kind in enumerate(steering.EDGES):
                expected = [f"{kind}={step}" if step else "" for step in steps[:, column]]
                assert names[:, 2 + column].tolist() in (expected, [""] * length)
            assert not rows[length:].any()
            if start + length < len(tokens) - 60:  # where there is something to tell
                counts += rows[0] > 0
                of_source.append(rows[0, 0] > 0)
                told_nothing += not rows[0, [0, 2, 3, 4]].any()
    shares = counts[[0, 2, 3, 4]] / len(of_source)
    assert np.all(np.abs(shares - 0.3) < 0.06), shares  # 0.6 of segments, half of the labels
    assert told_nothing / len(of_source) == pytest.approx(0.4 + 0.6 / 16, abs=0.06)


def test_a_resumed_feed_tells_the_same(corpus: Corpus) -> None:
    def lanes() -> Lanes:
        return Lanes(corpus, "train", lanes=3, segment_tokens=16, labels=LABELS, label_share=0.8, seed=4)

    first, again = lanes(), lanes()
    for _ in range(7):
        next(first)
    again.restore(first.state())
    for one, other in islice(zip(first, again), 20):
        np.testing.assert_array_equal(one.inputs, other.inputs)


@torch.no_grad()
def test_new_inputs_move_nothing_until_they_are_trained() -> None:
    model = random_model(3)
    grown = with_inputs(model, motif_notes=16, recalls=False, labels=LABELS)
    assert grown.config == replace(model.config, motif_notes=16, labels=LABELS)
    tokens = torch.randint(codec.N_EVENTS, (2, 40))
    more = torch.ones(2, 40, codec.HINT_COLUMNS + steering.COLUMNS, dtype=torch.int64)
    rows = torch.cat([tokens[..., None], more], -1)
    logits, _ = grown(rows, grown.initial_state(2))
    torch.testing.assert_close(logits, model(tokens, model.initial_state(2))[0])
    others = {"motif_notes": 99, "labels": ("composer=Ravel",)}
    assert with_inputs(grown, recalls=False, **others).config == grown.config
    # Of a model that has a motif memory, a passage that is called back is at first told as one followed long.
    recalling = with_inputs(random_model(3, motif_notes=16), motif_notes=16, recalls=True, labels=())
    assert recalling.config == replace(model.config, motif_notes=16, recalls=True)
    vectors = recalling.hint_embedding.weight
    assert torch.equal(vectors[:-1], random_model(3, motif_notes=16).hint_embedding.weight)
    assert torch.equal(vectors[codec.motifs.CALLED], vectors[codec.motifs.FOLLOWED + 16])


@torch.no_grad()
def test_a_label_is_a_vector_added_to_the_tokens() -> None:
    model = random_model(3, labels=LABELS)
    model.label_embedding.weight[0] = 0
    tokens = torch.randint(codec.N_EVENTS, (1, 9))
    told = torch.zeros(1, 9, steering.COLUMNS, dtype=torch.int64)
    told[..., 0], told[..., 2] = 2, 5
    difference = model.embed(torch.cat([tokens[..., None], told], -1)) - model.embed(tokens[..., None])
    vectors = model.label_embedding.weight
    torch.testing.assert_close(difference, (vectors[2] + vectors[5]).expand(1, 9, -1))


def test_training_learns_labels_and_evaluation_tells_none(corpus: Corpus, tmp_path: Path) -> None:
    recipe = replace(recipe_named("tiny"), steps=6, lanes=2, warmup_steps=0, label_share=1.0, checkpoint_every_s=1e9)
    init = save_model(random_model(8), tmp_path / "init")
    train(corpus, tmp_path / "run", replace(recipe, model=random_model(8).config), init=init)
    trained = load_checkpoint(tmp_path / "run" / "last")
    model = from_checkpoint(trained)
    composers = [f"composer={name}" for name in ("Bach", "Chopin")] if COMPOSER_PERFORMANCES <= 5 else []
    assert list(model.config.labels[:1]) == [*composers, "source=rolls"][:1]
    moved = model.label_embedding.weight.abs().sum(1) > 0
    assert not moved[0]
    assert moved[1:].any()
    read = evaluate(model, corpus, "validation", legal=True).nats_per_token
    with torch.no_grad():
        model.label_embedding.weight.fill_(9.0)
    assert evaluate(model, corpus, "validation", legal=True).nats_per_token == read


# ---- playing ----


@pytest.fixture(scope="module", params=[0, 32], ids=["labels alone", "labels and hints"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = random_model(7, labels=LABELS, motif_notes=request.param)
    with torch.no_grad():
        model.label_embedding.weight[0] = 0
    return save_model(model, tmp_path_factory.mktemp("told") / "model")


BLEND = {"composer=chopin": 0.75, "composer=Bach": 0.25, "density=3": 1.0}


@torch.no_grad()
def blended(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """(T, V) logits by the model's own forward, its embedding moved by the blend's vectors, summed by hand."""
    model = from_checkpoint(load_checkpoint(folder))
    table = model.label_embedding.weight
    vector = 0.75 * table[2] + 0.25 * table[1] + 1.5 * table[1 + LABELS.index("density=3")]
    embed = model.embed
    model.embed = lambda rows: embed(rows) + vector
    notes = model.config.motif_notes
    rows = codec.with_hints(tokens, codec.MotifMemory(notes).read(tokens) if notes else None)
    return model(torch.from_numpy(rows)[None], model.initial_state(1))[0][0].numpy()


@pytest.mark.parametrize("engine", ["torch", "onnx-fp32"])
def test_engines_read_what_they_are_told_as_the_model_does(folder: Path, engine: str) -> None:
    tokens = np.r_[codec.START, made_up_tokens(3, 30)[0][:-1]].astype(np.int64)
    weights = steering.weights(LABELS, BLEND)
    session = load_engine(str(folder), engine).begin()
    untold = session.fork().score(tokens)
    session.tell(weights)
    told, expected = session.score(tokens), blended(folder, tokens)
    assert np.abs(told - expected).max() < 1e-4 * expected.std()
    assert np.abs(told - untold).max() > 0.1 * expected.std()


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_fork_and_a_saved_take_are_told_the_same(folder: Path, engine: str) -> None:
    performer = Performer(load_engine(str(folder), engine), told=BLEND, guidance=1.5)

    def tokens(take, count: int = 30) -> list[int]:
        rng = np.random.default_rng(5)
        return [take.play(Sampling(), rng, may_end=False).token for _ in range(count)]

    take = performer.begin()
    tokens(take, 10)
    twin, saved = take.fork(), take.save()
    again = performer.resume(saved)
    played = tokens(take)
    assert tokens(twin) == tokens(again) == played
    other = performer.resume(saved)
    other.tell({})
    assert tokens(other) != played
    assert performer.begin()._session.nbytes == Performer(performer.engine).begin()._session.nbytes


def test_guidance_weighs_what_is_told(folder: Path) -> None:
    """The logits are those of a take that is told, moved away from those of one that is not; 1 is no guidance."""
    engine = load_engine(str(folder), "torch")
    logits = {}
    for told, guidance in (({}, 1.0), (BLEND, 1.0), (BLEND, 2.5), (BLEND, 0.0)):
        take = Performer(engine, told=told, guidance=guidance).begin()
        take.hear(made_up_tokens(3, 20)[0][:-1])
        logits[bool(told), guidance] = take._logits
    plain, told = logits[False, 1.0], logits[True, 1.0]
    np.testing.assert_allclose(logits[True, 2.5], plain + 2.5 * (told - plain), atol=1e-4)
    np.testing.assert_allclose(logits[True, 0.0], plain, atol=1e-4)


def test_what_is_asked_for_becomes_labels() -> None:
    assert steering.asked() == {}
    assert steering.asked("chopin") == {"composer=chopin": 1.0}
    assert steering.asked("chopin:3, Bach:1", "rolls", density=2, register=7) == {
        "source=rolls": 1.0,
        "composer=chopin": 0.75,
        "composer=Bach": 0.25,
        "density=2": 1.0,
        "register=7": 1.0,
    }


def test_what_cannot_be_asked_for_is_refused(folder: Path) -> None:
    engine = load_engine(str(folder), "torch")
    for composers, words in (("chopin:much", "no number"), ("chopin:0", "above 0"), ("chopin:-1,bach", "above 0")):
        with one_line(words):
            steering.asked(composers)
    with one_line("density is 8", "1 and 7"):
        steering.asked(density=8)
    with one_line("composer 'shopin'", "Chopin", "Bach"):
        Performer(engine, told=steering.asked("shopin"))
    with one_line("cannot be told a source"):
        steering.weights(("density=1",), {"source=rolls": 1.0})
    with one_line("guidance is 11"):
        Performer(engine, told=BLEND, guidance=11).begin()


# ---- courses ----


def test_a_course_goes_as_a_piece_does() -> None:
    """The piece at the head of this file: its steps, every two seconds."""
    onset = np.r_[np.arange(0, 20, 0.5), np.arange(20, 40, 0.1)]
    pitch, velocity = np.where(onset >= 20, 90, 40), np.where(onset >= 20, 110, 20)
    course = steering.course_of(codec.encode(Piece(onset, onset + 0.05, pitch, velocity)))
    assert course[:6].tolist() == [[1, 1, 1]] * 6
    assert course[11:19].tolist() == [[3, 7, 7]] * 8
    assert len(course) == 20
    assert steering.course_labels(course, 11.99) == {"density=1": 1.0, "loudness=1": 1.0, "register=1": 1.0}
    assert steering.course_labels(course, 22.0) == {"density=3": 1.0, "loudness=7": 1.0, "register=7": 1.0}
    assert steering.course_labels(course, 2 * len(course)) == {}
    assert steering.course_of([codec.END]).shape == (0, 3)


class Telling(Scripted):
    """Strikes a key a second, and keeps when it was told what."""

    labels = LABELS

    def begin(self) -> Telling:
        self.told: list[tuple[float, dict[str, float]]] = []
        return super().begin()

    def tell(self, weights: np.ndarray) -> None:
        told = {label: float(weight) for label, weight in zip(LABELS, weights) if weight}
        self.told.append(
            (sum(token - codec.SHIFT + 1 for token in self.read_tokens if token >= codec.SHIFT) / 100, told)
        )


def test_a_piece_is_told_what_its_course_says_and_was_not_asked_for() -> None:
    course = np.array([[3, 1, 0], [4, 1, 7]])
    seconds = [codec.VELOCITY, *(event for _ in range(6) for event in (60, shift(50), codec.NOTE_OFF + 60, shift(50)))]
    engine = Telling(seconds)
    Performer(engine, told={"density=6": 1.0, "source=rolls": 1.0}).generate(seconds=6, seed=0, course=course)
    asked = {"density=6": 1.5, "source=rolls": 1.0}
    assert [told for _, told in engine.told] == [
        asked,
        asked | {"loudness=1": 1.5},
        asked | {"loudness=1": 1.5, "register=7": 1.0},
        asked,
    ]


def test_no_course_and_labels_that_are_unknown_tell_nothing() -> None:
    engine = Telling([60, shift(100), codec.NOTE_OFF + 60, shift(100), codec.END])
    Performer(engine).generate(seconds=6, seed=0)
    assert engine.told == []
    engine.labels = ("composer=Bach",)
    Performer(engine).generate(seconds=6, seed=0, course=np.array([[3, 1, 0]]))
    assert engine.told == []


def test_every_piece_of_several_follows_the_course_from_its_beginning() -> None:
    """Each is half a second long, and two seconds of silence follow."""
    half = [codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60, codec.END]

    class Beginning(Telling):
        def begin(self) -> Telling:
            before = getattr(self, "told", [])
            super().begin()
            self.told = before
            return self

    engine = Beginning(half)
    assert Performer(engine).generate(seconds=8, seed=0, again=True, course=np.array([[3, 1, 0]])).pieces == 4
    assert engine.told == [(0.0, {"density=3": 1.5, "loudness=1": 1.5})] * 4


def test_a_piece_like_another(command, folder: Path, tmp_path: Path) -> None:
    like = codec.decode(made_up_tokens(5, 200)[0])
    like.write(tmp_path / "like.mid")
    tokens = codec.encode(read_midi(tmp_path / "like.mid"))
    performer = Performer(load_engine(str(folder), "onnx"))
    pieces = {}
    for name, course in (("--like", steering.course_of(tokens)), ("", None)):
        out = tmp_path / f"piece{name}.mid"
        options = [name, tmp_path / "like.mid"] if name else []
        done = command("generate", out, "--model", folder, "--minutes", "0.2", "--seed", "4", *options)
        assert done.code == 0
        expected = performer.generate(seconds=12, seed=4, again=True, course=course).piece
        expected.write(tmp_path / "expected.mid")
        assert notes(read_midi(out)) == notes(read_midi(tmp_path / "expected.mid"))
        pieces[name] = notes(expected)
    assert len({tuple(piece) for piece in pieces.values()}) == 2


def test_a_course_that_cannot_be_followed_is_refused(command, folder: Path, tmp_path: Path) -> None:
    codec.decode(made_up_tokens(5, 50)[0]).write(tmp_path / "like.mid")
    Piece([], [], [], []).write(tmp_path / "empty.mid")
    knows_nothing, out = save_model(random_model(3), tmp_path / "plain"), tmp_path / "out.mid"
    for options, words in (
        (["--like", tmp_path / "empty.mid"], ["empty.mid", "no notes"]),
        (["--like", tmp_path / "like.mid", "--model", knows_nothing], ["cannot be told how dense", "--like"]),
        (["--like", tmp_path / "none.mid"], ["none.mid"]),
    ):
        done = command("generate", out, "--model", folder, "--minutes", "0.1", *options)
        assert done.code == 2
        assert len(done.err.strip().splitlines()) == 1
        assert all(word in done.err for word in words), done.err
        assert not out.exists()
    done = command("generate", tmp_path / "like.mid", "--model", folder, "--like", tmp_path / "like.mid")
    assert done.code == 2
    assert len(read_midi(tmp_path / "like.mid"))


def test_info_lists_what_a_model_can_be_told(command, folder: Path) -> None:
    done = command("info", folder)
    assert "composer Bach, Chopin; source rolls; density 1, 2, 3, 4, 5, 6, 7;" in " ".join(
        (done.out + done.err).split()
    )
    assert command("info", folder, "--json").figures["labels"] == list(LABELS)
