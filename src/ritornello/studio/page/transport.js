// The transport: plays a piece by the clock of the sound, a little ahead of it, at any tempo.

import {Emitter} from './emitter.js';
import {endOf, firstFrom, silentAt} from './music.js';

const AHEAD_S = 0.15, HIDDEN_AHEAD_S = 2.5; // browsers wake a hidden page once a second
const TICK_MS = 40;
const ENDED_S = 1; // after the last note it stops
const LOST_S = 0.05; // notes later than this are not struck any more

/** Fires `state` when it plays, waits or stops; `tick` about 25 times a second while it plays. */
export class Transport extends Emitter {
  /**
   * @param {AudioContext} context
   * @param {(note: import('./music.js').Note, when: number, release: number) => {release: Function} | null} strike
   */
  constructor(context, strike) {
    super();
    this.context = context;
    this.strike = strike;
    this.piece = {notes: [], pedals: []};
    this.playing = false;
    this.waiting = false; // for music that is not made yet
    this.underruns = 0;
    this.tempo = 1;
    /** @type {import('./music.js').Span | null} */
    this.loop = null;
    this.limit = () => Infinity; // up to when the music is final
    this.growing = () => false; // whether more will come
    this.anchor = {music: 0, time: 0};
    /** @type {Set<{note: any, when: number, release: number, voice: any}>} notes that sound or are about to */
    this.struck = new Set();
  }

  /** Where the music is, in seconds. */
  get position() {
    if (!this.playing || this.waiting) return this.anchor.music;
    return this.anchor.music + Math.max(0, this.context.currentTime - this.anchor.time) * this.tempo;
  }

  /** Other music: what sounds goes on, what comes next is the new one's. */
  setPiece(piece) {
    const {position} = this;
    this.piece = piece;
    this.rewind(position, true);
  }

  async play() {
    if (this.playing) return;
    await this.context.resume();
    this.playing = true;
    this.waiting = false;
    this.rewind(this.anchor.music);
    this.timer = setInterval(() => this.tick(), TICK_MS);
    this.tick();
    this.tell();
  }

  pause() {
    if (!this.playing) return;
    this.anchor = {music: this.position, time: 0};
    this.playing = this.waiting = false;
    clearInterval(this.timer);
    this.hush();
    this.tell();
  }

  seek(time) {
    this.hush();
    this.rewind(Math.max(0, time));
    this.emit('tick');
  }

  setTempo(tempo) {
    const {position} = this;
    this.tempo = tempo;
    this.rewind(position, true);
  }

  tell() {
    this.emit('state');
  }

  /** Begins anew at `music`; with `smooth`, notes that sound already go on. */
  rewind(music, smooth = false) {
    const now = this.context.currentTime;
    const kept = new Set();
    for (const entry of this.struck) {
      if (smooth && entry.when <= now) kept.add(entry);
      else entry.voice?.release(now, 0.03);
    }
    this.struck = kept;
    this.anchor = {music, time: now + (smooth ? 0 : 0.03)};
    this.next = music;
  }

  hush() {
    const now = this.context.currentTime;
    for (const {voice} of this.struck) voice?.release(now, 0.03);
    this.struck.clear();
  }

  tick() {
    const now = this.context.currentTime;
    let {position} = this;
    if (this.loop && position >= this.loop.end) {
      this.rewind(this.loop.start, true);
      position = this.loop.start;
    }
    const limit = this.limit();
    if (this.waiting && limit > position + 0.3) {
      this.waiting = false;
      this.rewind(position, true);
      this.tell();
    } else if (!this.waiting && this.growing() && position >= limit) {
      this.anchor.music = position;
      this.waiting = true;
      if (position > 0) this.underruns++;
      this.tell();
    }
    if (!this.growing() && !this.loop && position > endOf(this.piece) + ENDED_S) return this.pause();
    if (!this.waiting) this.schedule(now, limit);
    for (const entry of this.struck) if (entry.release < now - 1) this.struck.delete(entry);
    this.emit('tick');
  }

  schedule(now, limit) {
    const ahead = (document.hidden ? HIDDEN_AHEAD_S : AHEAD_S) * this.tempo;
    const until = Math.min(this.position + ahead, limit, this.loop ? this.loop.end : Infinity);
    const {notes, pedals} = this.piece;
    for (let n = firstFrom(notes, this.next); n < notes.length && notes[n].start < until; n++) {
      const note = notes[n];
      const when = this.anchor.time + (note.start - this.anchor.music) / this.tempo;
      if (when < now - LOST_S) continue;
      const release = when + Math.max(0.03, (silentAt(note, pedals) - note.start) / this.tempo);
      const entry = {note, when, release, voice: this.strike(note, when, release)};
      this.struck.add(entry);
    }
    this.next = Math.max(this.next, until);
  }

  /** The notes that sound now. */
  sounding() {
    if (!this.playing) return [];
    const now = this.context.currentTime;
    return [...this.struck].filter(({when, release}) => when <= now && now < release).map(({note}) => note);
  }
}
