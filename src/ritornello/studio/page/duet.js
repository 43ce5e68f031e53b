// A duet on the page: hands and the model at one piano, by turns, and both written down.

import {Emitter} from './emitter.js';
import {KEY} from './engine/duet.js';
import {now} from './stream.js';

const SHORTEST_S = 0.02; // of a note

/** @typedef {{takeover: string, handback: string}} Agreed */

/** Fires `turn` when it is another's, `keys` when others of the model's sound, `notes` and pedals that are over, `end`. */
export class Duet extends Emitter {
  /**
   * @param {(pitch: number, velocity: number, after: number) => {release: (after: number) => void, cut: () => void}} strike
   *   strikes a key in so many seconds; it is let go in as many, or at once and for good
   */
  constructor(strike) {
    super();
    this.strike = strike;
    /** @type {import('./stream.js').Stream | null} */
    this.stream = null;
    this.playing = false; // whether it is the model's turn
    this.turn = this.over = 0; // the model's last, and the last that is over
    this.first = null; // when the first key was struck
    this.from = 0; // where in the piece that is
    /** @type {Agreed} */
    this.agreed = {takeover: 'silence', handback: 'key'};
    this.keys = new Map(); // the model's that are down, or about to be
    this.all = new Set(); // those, and those that are about to come up
    this.held = new Map(); // the person's
    this.timers = new Set();
    this.ended = () => {};
  }

  /** Begins one; what is played stands in the piece from a time on. */
  async begin(engine, asked, from) {
    Object.assign(this, {turn: 0, over: 0, first: null, from});
    this.held.clear();
    const stream = await engine.duet({...asked, ...this.agreed});
    this.stream = stream;
    stream.on('turn', ({turn, playing}) => this.take(turn, playing));
    stream.on('key', (key) => this.key(key));
    stream.on('notes', ({notes, pedals}) => this.tell(notes, pedals));
    stream.on('end', () => this.leave());
    stream.on('error', (error) => this.leave(error));
    this.emit('turn');
  }

  /** Ends it, once everything is written down. */
  async end() {
    if (!this.stream) return;
    this.hush();
    const ended = new Promise((resolve) => { this.ended = resolve; });
    this.stream.finish();
    await ended;
  }

  /** How turns change from now on. @param {Agreed} agreed */
  agree(agreed) {
    this.agreed = agreed;
    this.stream?.agree(agreed.takeover, agreed.handback);
  }

  /** Whether a key calls the model instead of sounding. */
  calls(pitch) {
    return Boolean(this.stream) && this.agreed.takeover === 'key' && pitch === KEY;
  }

  /** Where the music is, in seconds; null before the first key. */
  get position() {
    return this.first === null ? null : this.from + now() - this.first;
  }

  /** The notes of both that are not over, as if their keys were let go now. */
  get unfinished() {
    const keys = [...[...this.held.values()].map((key) => ({...key, byModel: false})), ...this.sounding.map((key) => ({...key, byModel: true}))];
    return keys.map(({at, ...key}) => this.placed({...key, start: at - this.first, end: now() - this.first}));
  }

  /** The model's keys that sound. */
  get sounding() {
    return [...this.all].filter(({sounds}) => sounds);
  }

  // ---- what hands do ----

  strikes(pitch, velocity) {
    if (!this.stream) return;
    if (this.playing) this.hush();
    this.stream.hear([0x90, pitch, velocity]);
    if (this.calls(pitch)) return;
    this.held.set(pitch, {pitch, velocity, at: now()});
    if (this.first !== null) return;
    this.first = now();
    this.emit('turn');
  }

  releases(pitch) {
    this.held.delete(pitch);
    this.stream?.hear([0x80, pitch, 0]);
  }

  pedals(down) {
    if (this.playing && down && this.agreed.handback === 'pedal') this.hush();
    this.stream?.hear([0xb0, 64, down ? 127 : 0]);
  }

  // ---- what the model does ----

  take(turn, playing) {
    this.turn = turn;
    if (!playing) return this.hush();
    this.playing = turn > this.over;
    this.emit('turn');
  }

  key({turn, pitch, velocity, at}) {
    if (turn <= this.over) return; // it was on its way when somebody came in
    const after = Math.max(0, at - now());
    if (velocity) {
      const key = {pitch, velocity, at, sounds: false, voice: this.strike(pitch, velocity, after)};
      this.keys.set(pitch, key);
      this.all.add(key);
      this.later(after, () => { key.sounds = true; });
    } else if (this.keys.has(pitch)) {
      const key = this.keys.get(pitch);
      this.keys.delete(pitch);
      key.voice.release(after);
      this.later(after, () => this.all.delete(key));
    }
  }

  later(after, act) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      act();
      this.emit('keys');
    }, after * 1000);
    this.timers.add(timer);
  }

  /** The model's turn is over: what it plays falls silent, and what was to come does not. */
  hush() {
    for (const timer of this.timers) clearTimeout(timer);
    for (const {voice} of this.all) voice.cut();
    for (const things of [this.timers, this.all, this.keys]) things.clear();
    Object.assign(this, {over: this.turn, playing: false});
    this.emit('keys');
    this.emit('turn');
  }

  /** A note in the piece. */
  placed({pitch, velocity, byModel, ...span}) {
    return Object.freeze({pitch, velocity, ...this.span(span), ...(byModel ? {} : {given: true})});
  }

  span({start, end}) {
    return {start: this.from + start, end: this.from + Math.max(end, start + SHORTEST_S)};
  }

  tell(notes, pedals) {
    this.emit('notes', {notes: notes.map((note) => this.placed(note)), pedals: pedals.map((span) => this.span(span))});
  }

  leave(error) {
    this.hush();
    this.stream.close();
    this.stream = null;
    this.emit('turn');
    this.ended();
    this.emit('end', error);
  }
}
