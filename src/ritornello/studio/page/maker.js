// Making music: the engine's streams behind what a musician asks for. It knows the session, the engine and the time that
// is heard; it shows through events what it does.

import {Emitter} from './emitter.js';
import {NOTHING, before, endOf, insert, replaced} from './music.js';

export const AHEAD_S = 12; // that are final beyond what is heard
const FIRST_S = 3; // that the other ways are made at once
const WAYS = 4;
const BRIDGES = 6; // that are drawn; the best four are offered
const RANKED_S = 10, KNOWN_S = 90; // of what follows a gap bridges are ranked by, and of what stands before it
const PAUSE_S = 2; // between a piece that the model has ended and the next

const newSeed = () => Math.floor(Math.random() * 2 ** 31);

/** @typedef {import('./music.js').Note} Note */
/** @typedef {import('./music.js').Span} Span */
/** @typedef {import('./music.js').Piece} Piece */
/** @typedef {import('./stream.js').Engine} Engine */
/** @typedef {import('./stream.js').Stream} Stream */

/** What is read to rank a bridge from `start` to `end`: no more than counts. */
function follow(piece, start, end) {
  const first = Math.max(0, start - KNOWN_S);
  const moved = (items) => items.filter((item) => item.start >= first && item.start < end + RANKED_S)
    .map((item) => ({...item, start: item.start - first, end: item.end - first}));
  return {notes: moved(piece.notes), pedals: moved(piece.pedals), from: end - first, to: end + RANKED_S - first};
}

/**
 * Several ways on from one moment.
 * @typedef {{from: number, to: number | null, base: Piece, ways: Way[], current: number, ranked: boolean, label: string,
 *   wasLive: boolean}} Choice
 * @typedef {{notes: Note[], sounding: Note[], pedals: Span[], upTo: number, ended: boolean, nats: number | null, stream: Stream,
 *   complete: Promise<void>, finish: () => void}} Way
 */

/** Fires `choice` when there are ways to choose from or no longer, `ways` when they grew, `state`, and `trouble`. */
export class Maker extends Emitter {
  /** @param {import('./session.js').Session} session @param {() => number} heard */
  constructor(session, heard) {
    super();
    this.session = session;
    this.heard = heard;
    /** @type {Engine | null} */
    this.engine = null;
    /** @type {{stream: Stream | null, offset: number, upTo: number, from: number} | null} */
    this.live = null; // the stream that the present piece grows by
    /** @type {Choice | null} */
    this.choice = null;
    this.turn = 0; // what was begun before another turn is not wanted any more
  }

  /** What is to be shown and heard: the piece, or the way of a choice that is listened to. */
  get shown() {
    const {choice} = this;
    return choice ? replaced(choice.base, choice.from, choice.to, choice.ways[choice.current]) : this.session.piece;
  }

  /** The same as it would be if it ended now, with what sounds still: what is saved. */
  get whole() {
    const {choice, session} = this;
    if (!choice) return session.whole;
    const way = choice.ways[choice.current], notes = [...way.notes];
    insert(notes, way.sounding);
    return replaced(choice.base, choice.from, choice.to, {...way, notes});
  }

  /** Up to when the music that is shown is final. */
  limit() {
    if (this.choice) {
      const {ways, current, to} = this.choice;
      return ways[current].ended ? Infinity : Math.min(ways[current].upTo, to ?? Infinity);
    }
    return this.live ? this.live.upTo : Infinity;
  }

  get growing() {
    return this.choice ? !this.choice.ways[this.choice.current].ended : Boolean(this.live);
  }

  /** Makes more where less than `AHEAD_S` is left. */
  tick() {
    if (this.choice) {
      const {from, to, ways, current} = this.choice;
      const until = to ?? Math.max(from, this.heard()) + AHEAD_S;
      const heard = ways[current];
      for (const way of ways) { // what is listened to goes first
        if (!way.ended) way.stream.advance(way === heard || heard.ended ? until : Math.min(until, Math.max(from + FIRST_S, heard.upTo)));
      }
    } else if (this.live?.stream) {
      this.live.stream.advance(Math.max(this.live.from, this.heard()) + AHEAD_S - this.live.offset);
    }
  }

  setSampling(sampling) {
    this.live?.stream?.setSampling(sampling);
    for (const way of this.choice?.ways ?? []) way.stream.setSampling(sampling);
  }

  /** What the session asks of the music, as far as this model can be told. */
  get asked() {
    return Object.fromEntries(Object.entries(this.session.told).filter(([label]) => this.engine?.about.labels.includes(label)));
  }

  setTold() {
    this.live?.stream?.setTold(this.asked);
    for (const way of this.choice?.ways ?? []) way.stream.setTold(this.asked);
  }

  /** A new piece, from nothing; `settings` are its sampling and what is told, as a session has them. */
  begin(seed, settings = {}) {
    this.stop();
    this.session.begin(seed, NOTHING, settings);
    return this.grow(NOTHING, 0, seed);
  }

  /** Goes on at the end of the piece. */
  goOn() {
    const {piece, seed, past} = this.session;
    return this.grow(piece, undefined, seed + past.length);
  }

  /** Plays anew from a time: up to what is kept, or without end. */
  async again(from) {
    const limit = this.keptAfter(from);
    if (limit !== null) return this.choose(from, limit, 1, 'played anew');
    this.stop();
    const piece = before(this.session.piece, from);
    this.session.change('played anew', piece);
    return this.grow(piece, from, newSeed());
  }

  /** Four ways on from a time, at once. */
  ways(from) {
    return this.choose(from, this.keptAfter(from), WAYS, 'another way on');
  }

  /** Bridges over a gap, ranked by how likely what follows is after each. */
  async bridge({start, end}) {
    const {session} = this;
    if (session.piece.kept.some((span) => span.start < end && span.end > start)) {
      throw new Error('a part of this is kept: let it go first');
    }
    const base = session.piece;
    const follows = base.notes.some((note) => note.start >= end);
    if (!await this.choose(start, end, BRIDGES, 'a bridge')) return;
    const {choice, turn} = this;
    if (!choice) return;
    await Promise.all(choice.ways.map((way) => way.complete));
    if (turn !== this.turn) return;
    if (follows) {
      for (const way of choice.ways) {
        way.nats = await this.engine.score(follow(replaced(base, start, end, way), start, end));
        if (turn !== this.turn) return;
        this.emit('ways');
      }
      const listened = choice.current && choice.ways[choice.current]; // who has not chosen yet hears the best
      choice.ways.sort((a, b) => (a.nats ?? Infinity) - (b.nats ?? Infinity));
      choice.current = listened ? Math.max(0, choice.ways.slice(0, WAYS).indexOf(listened)) : 0;
    }
    choice.ways.length = Math.min(WAYS, choice.ways.length);
    choice.ranked = true;
    this.emit('choice');
  }

  /** Listens to another of the ways. */
  listen(number) {
    if (!this.choice?.ways[number]) return;
    this.choice.current = number;
    this.emit('choice');
  }

  /** Takes the way that is listened to, once it is whole; the others are dropped. */
  accept() {
    const {choice} = this;
    const way = choice?.ways[choice.current];
    if (!way || (choice.to !== null && !way.ended)) return;
    const piece = this.shown;
    for (const other of choice.ways) if (other !== way || choice.to !== null) other.stream.close();
    this.choice = null;
    this.turn++;
    this.session.change(choice.label, piece);
    if (choice.to === null && !way.ended) {
      this.live = {stream: way.stream, offset: 0, upTo: way.upTo, from: choice.from};
      this.session.sounding = way.sounding;
      this.follow(way.stream, this.live);
    }
    this.told();
  }

  /** Drops all ways: the piece is what it was, and goes on if it did. */
  async drop() {
    const wasLive = this.choice?.wasLive;
    this.stop();
    if (wasLive) await this.goOn();
  }

  /** Ends whatever is being made; the piece stays as far as it is. */
  stop() {
    for (const way of this.choice?.ways ?? []) way.stream.close();
    this.choice = null;
    this.turn++;
    this.live?.stream?.close();
    this.live = null;
    this.session.settle();
    this.told();
  }

  told() {
    this.emit('choice');
    this.emit('state');
  }

  /** When the first kept span after `from` begins, or null. */
  keptAfter(from) {
    const {kept} = this.session.piece;
    if (kept.some(({start, end}) => start < from && from < end)) {
      throw new Error('this is kept: let it go first, or choose another moment');
    }
    return kept.find(({start}) => start >= from)?.start ?? null;
  }

  async grow(piece, from, seed) {
    this.stop();
    const {turn} = this;
    const live = {stream: null, offset: 0, upTo: from ?? endOf(piece), from: from ?? endOf(piece)};
    this.live = live;
    this.emit('state');
    const {notes, pedals} = piece;
    const stream = await this.needed().start({notes, pedals, from, seed, sampling: this.session.sampling, told: this.asked});
    if (turn !== this.turn) return stream.close();
    live.stream = stream;
    this.follow(stream, live);
    this.tick();
  }

  /** The present piece grows by what a stream plays; where the model ends it another follows. */
  follow(stream, live) {
    const {offset} = live;
    const moved = (notes) => (offset ? notes.map((note) => ({...note, start: note.start + offset, end: note.end + offset})) : notes);
    stream.on('notes', ({notes, sounding, upTo}) => {
      if (this.live !== live) return;
      live.upTo = Math.max(live.upTo, upTo + offset);
      this.session.grow(moved(notes), moved(sounding));
    });
    stream.on('end', async () => {
      if (this.live !== live) return;
      stream.close();
      const begins = endOf(this.session.piece) + PAUSE_S;
      const next = {stream: null, offset: begins, upTo: begins, from: begins};
      this.live = next;
      const {seed, sampling, piece} = this.session;
      next.stream = await this.needed().start({notes: [], pedals: [], seed: seed + piece.notes.length, sampling, told: this.asked});
      if (this.live !== next) return next.stream.close();
      this.follow(next.stream, next);
      this.tick();
    });
    stream.on('error', (error) => {
      if (this.live !== live) return;
      this.live = null;
      this.fail(error);
    });
  }

  /** Begins a choice of `count` ways from one moment on; the first reads what stands before, the others fork from it. */
  async choose(from, to, count, label) {
    const wasLive = Boolean(this.live);
    this.stop();
    const {turn} = this;
    const base = this.session.piece;
    const {notes, pedals} = before(base, from);
    const seeds = Array.from({length: count}, newSeed);
    const first = await this.needed().start({notes, pedals, from, seed: seeds[0], sampling: this.session.sampling, told: this.asked});
    if (turn !== this.turn) {
      first.close();
      return false;
    }
    const streams = [first, ...seeds.slice(1).map((seed) => first.fork(seed))];
    const ways = streams.map((stream) => {
      let finish = () => {};
      const complete = /** @type {Promise<void>} */ (new Promise((resolve) => { finish = resolve; }));
      return {notes: [], sounding: [], pedals: [], upTo: from, ended: false, nats: null, stream, complete, finish};
    });
    this.choice = {from, to, base, ways, current: 0, ranked: false, label, wasLive};
    for (const way of ways) this.collect(way, to);
    this.told();
    this.tick();
    return true;
  }

  collect(way, to) {
    const {choice} = this;
    const finish = () => {
      way.ended = true;
      way.finish();
      if (to !== null) way.stream.close();
    };
    way.stream.on('notes', ({notes, sounding, upTo}) => {
      insert(way.notes, notes);
      way.sounding = sounding;
      way.upTo = Math.max(way.upTo, upTo);
      if (to !== null && way.upTo >= to - 0.01) finish();
      if (this.choice === choice) this.emit('ways');
    });
    way.stream.on('end', () => {
      finish();
      if (this.choice === choice) this.emit('ways');
    });
    way.stream.on('error', (error) => {
      if (this.choice !== choice) return;
      this.stop();
      this.fail(error);
    });
  }

  needed() {
    if (!this.engine) {
      this.live = null;
      throw new Error('there is no player now');
    }
    return this.engine;
  }

  fail(error) {
    this.emit('trouble', error);
    this.told();
  }
}
