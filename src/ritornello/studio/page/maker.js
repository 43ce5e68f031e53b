// Making music: the engine's streams behind what a musician asks for. It knows the session, the engine and the time that
// is heard; it shows through events what it does.

import {NOTHING, before, endOf, insert, replaced} from './music.js';

export const AHEAD_S = 20; // how far music is made beyond what is heard
const FIRST_S = 3; // that the other ways are made at once
const WAYS = 4;
const BRIDGES = 6; // that are drawn; the best four are offered
const RANKED_S = 10; // of what follows a gap, by which bridges are ranked
const PAUSE_S = 2; // between a piece that the model has ended and the next

const newSeed = () => Math.floor(Math.random() * 2 ** 31);

/**
 * Several ways on from one moment.
 * @typedef {{from: number, to: number | null, base: object, ways: Way[], current: number, ranked: boolean, label: string}} Choice
 * @typedef {{seed: number, notes: object[], pedals: object[], upTo: number, ended: boolean, nats: number | null,
 *   stream: object}} Way
 */

/** Fires `choice` when there are ways to choose from or no longer, `ways` when they grew, `state`, and `trouble`. */
export class Maker extends EventTarget {
  /** @param {import('./session.js').Session} session @param {() => number} heard */
  constructor(session, heard) {
    super();
    Object.assign(this, {session, heard});
    this.engine = null;
    /** @type {{stream: object, offset: number, upTo: number, from: number} | null} */
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
      const until = Math.max(from, this.heard(), to ?? 0) + AHEAD_S; // beyond a gap, to know when its keys go up
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

  /** A new piece, from nothing. */
  begin(seed, sampling) {
    this.stop();
    this.session.begin(seed);
    if (sampling) this.session.sampling = {...this.session.sampling, ...sampling};
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
        const {notes, pedals} = replaced(base, start, end, way);
        way.nats = await this.engine.score({notes, pedals, from: end, to: end + RANKED_S});
        if (turn !== this.turn) return;
        this.dispatchEvent(new Event('ways'));
      }
      const listened = choice.ways[choice.current];
      choice.ways.sort((a, b) => (a.nats ?? Infinity) - (b.nats ?? Infinity));
      choice.current = Math.max(0, choice.ways.slice(0, WAYS).indexOf(listened));
    }
    choice.ways.length = Math.min(WAYS, choice.ways.length);
    choice.ranked = true;
    this.dispatchEvent(new Event('choice'));
  }

  /** Listens to another of the ways. */
  listen(number) {
    if (!this.choice?.ways[number]) return;
    this.choice.current = number;
    this.dispatchEvent(new Event('choice'));
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
      this.follow(way.stream, this.live);
    }
    this.told();
  }

  /** Drops all ways: the piece is what it was. */
  reject() {
    if (!this.choice) return;
    for (const way of this.choice.ways) way.stream.close();
    this.choice = null;
    this.turn++;
    this.told();
  }

  /** Ends whatever is being made; the piece stays as far as it is. */
  stop() {
    this.reject();
    this.turn++;
    this.live?.stream?.close();
    this.live = null;
    this.told();
  }

  told() {
    this.dispatchEvent(new Event('choice'));
    this.dispatchEvent(new Event('state'));
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
    this.dispatchEvent(new Event('state'));
    const {notes, pedals} = piece;
    const stream = await this.needed().start({notes, pedals, from, seed, sampling: this.session.sampling});
    if (turn !== this.turn) return stream.close();
    live.stream = stream;
    this.follow(stream, live);
    this.tick();
  }

  /** The present piece grows by what a stream plays; where the model ends it another follows. */
  follow(stream, live) {
    const {offset} = live;
    stream.on('notes', ({notes, upTo}) => {
      if (this.live !== live) return;
      const moved = offset ? notes.map((note) => ({...note, start: note.start + offset, end: note.end + offset})) : notes;
      live.upTo = Math.max(live.upTo, upTo + offset);
      this.session.grow(moved);
    });
    stream.on('end', async () => {
      if (this.live !== live) return;
      stream.close();
      const begins = endOf(this.session.piece) + PAUSE_S;
      const next = {stream: null, offset: begins, upTo: begins, from: begins};
      this.live = next;
      const {seed, sampling, piece} = this.session;
      next.stream = await this.needed().start({notes: [], pedals: [], seed: seed + piece.notes.length, sampling});
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
    this.stop();
    const {turn} = this;
    const base = this.session.piece;
    const {notes, pedals} = before(base, from);
    const seeds = Array.from({length: count}, newSeed);
    const first = await this.needed().start({notes, pedals, from, seed: seeds[0], sampling: this.session.sampling});
    if (turn !== this.turn) {
      first.close();
      return false;
    }
    const streams = [first, ...seeds.slice(1).map((seed) => first.fork(seed))];
    const ways = streams.map((stream, n) => {
      const way = {seed: seeds[n], notes: [], pedals: [], upTo: from, ended: false, nats: null, stream};
      way.complete = new Promise((resolve) => { way.finish = resolve; });
      return way;
    });
    this.choice = {from, to, base, ways, current: 0, ranked: false, label};
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
    way.stream.on('notes', ({notes, upTo}) => {
      insert(way.notes, notes);
      way.upTo = Math.max(way.upTo, upTo);
      if (to !== null && way.upTo >= to - 0.01) finish();
      if (this.choice === choice) this.dispatchEvent(new Event('ways'));
    });
    way.stream.on('end', () => {
      finish();
      if (this.choice === choice) this.dispatchEvent(new Event('ways'));
    });
    way.stream.on('error', (error) => {
      if (this.choice !== choice) return;
      this.reject();
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
    this.dispatchEvent(new CustomEvent('trouble', {detail: error}));
    this.told();
  }
}
