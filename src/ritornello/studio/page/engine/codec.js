// Performances as tokens: the vocabulary, pieces to tokens, and tokens to notes as they finish. As `ritornello.codec`.

import {sounding} from './notes.js';

/** @typedef {import('./midi.js').Note} Note */
/** @typedef {import('./midi.js').Span} Span */

export const NOTE_OFF = 128; // strikes are 0 to 127
export const SHIFT = 256; // + steps - 1
export const VELOCITY = 356; // + bin
export const END = 388;
export const N_EVENTS = 389; // what a model predicts: everything above
export const START = 389; // what a model is given before the first event
export const FINGERPRINT = 'e87c67821f85db21'; // of models made with this table

export const N_PITCHES = 128;
export const STEPS_PER_S = 100;
export const MAX_SHIFT_STEPS = 100;
export const N_VELOCITY_BINS = 32;
export const DEFAULT_VELOCITY_BIN = 15;

const binVelocity = (bin) => 4 * bin + 2;

/** The nearest 10 ms step of a time. */
export const stepOf = (seconds) => Math.floor(seconds * STEPS_PER_S + 0.5);

/**
 * The tokens of a piece, END left out, and the step at which each stands, its own shift included. The pedal becomes
 * note length; what one key cannot do is mended as `ritornello.codec.encode` does.
 * @param {Note[]} notes in any order
 * @param {Span[]} pedals
 * @returns {{tokens: number[], steps: number[]}}
 */
export function encode(notes, pedals = []) {
  const events = []; // one number each, which sorts as they are written: step, strike or release, pitch, velocity bin
  for (const {on, off, pitch, velocity} of strikes(notes, pedals)) {
    events.push(((on * 2 + 1) * N_PITCHES + pitch) * N_VELOCITY_BINS + ((velocity - 1) >> 2));
    events.push((off * 2 * N_PITCHES + pitch) * N_VELOCITY_BINS);
  }
  events.sort((a, b) => a - b);
  const tokens = [], steps = [];
  let now = 0, current = -1;
  const write = (token) => { tokens.push(token); steps.push(now); };
  for (const event of events) {
    const bin = event % N_VELOCITY_BINS;
    const key = Math.floor(event / N_VELOCITY_BINS);
    const pitch = key % N_PITCHES;
    const turn = Math.floor(key / N_PITCHES);
    const step = Math.floor(turn / 2);
    while (now < step) {
      const gap = Math.min(step - now, MAX_SHIFT_STEPS);
      now += gap;
      write(SHIFT + gap - 1);
    }
    if (turn % 2 && bin !== current) write(VELOCITY + (current = bin));
    write(turn % 2 ? pitch : NOTE_OFF + pitch);
  }
  return {tokens, steps};
}

/** What one key per pitch can play of a piece, in steps. */
function strikes(notes, pedals) {
  /** @type {Map<string, {on: number, off: number, pitch: number, velocity: number}>} */
  const found = new Map();
  for (const {note: {pitch, velocity, start}, silent} of sounding(notes, pedals)) {
    const on = stepOf(start), off = Math.max(stepOf(silent), on + 1), key = `${pitch} ${on}`, same = found.get(key);
    found.set(key, {on, off: Math.max(off, same?.off ?? 0), pitch, velocity: Math.max(velocity, same?.velocity ?? 0)});
  }
  return found.values();
}

/** Tokens, which obey the grammar, to notes as they finish; bounded by the 128 keys. */
export class StreamDecoder {
  step = 0;
  velocity = binVelocity(DEFAULT_VELOCITY_BIN);
  /** @type {Map<number, {step: number, velocity: number}>} */
  open = new Map();

  get seconds() {
    return this.step / STEPS_PER_S;
  }

  /**
   * The notes that a token finishes: none, one, or at END all that still sound.
   * @returns {Note[]}
   */
  feed(token) {
    if (token < NOTE_OFF) this.open.set(token, {step: this.step, velocity: this.velocity});
    else if (token < SHIFT) return this.release(token - NOTE_OFF);
    else if (token < VELOCITY) this.step += token - SHIFT + 1;
    else if (token < END) this.velocity = binVelocity(token - VELOCITY);
    else if (token === END) return this.finish();
    return [];
  }

  /** The notes that still sound, closed now. */
  finish() {
    return [...this.open.keys()].sort((a, b) => a - b).flatMap((pitch) => this.release(pitch));
  }

  release(pitch) {
    const key = this.open.get(pitch);
    if (!key) return [];
    this.open.delete(pitch);
    return [{pitch, velocity: key.velocity, start: key.step / STEPS_PER_S, end: this.seconds}];
  }

  fork() {
    const twin = Object.assign(new StreamDecoder(), this);
    twin.open = new Map(this.open);
    return twin;
  }
}

/**
 * Encodes what is played on one piano, key by key; bounded by the 128 keys. Events come in order of their times, seconds
 * from the piece's start; of events at one time pedals come first, then releases. A step's tokens are told when the next
 * step begins, since only then it is known what they are.
 */
export class StreamEncoder {
  /**
   * @param {number} told the step that earlier tokens have reached, to go on from
   * @param {number} bin of the last strike in those; -1 for none
   * @param {number} step the first in which something may happen
   */
  constructor(told = 0, bin = -1, step = 0) {
    Object.assign(this, {told, bin, step});
    /** @type {number[]} */
    this.tokens = []; // told, and not yet asked for
    /** @type {Map<number, number>} */
    this.strikes = new Map(); // of the open step: pitch -> velocity
    /** @type {Map<number, Set<number>>} */
    this.releases = new Map(); // by step, from the open one on
    /** @type {Map<number, number>} */
    this.since = new Map(); // by sounding pitch: the step of its strike
    /** @type {Set<number>} */
    this.held = new Set(); // keys that are down
    this.pedalDown = false;
  }

  get anySounds() {
    return this.since.size > 0;
  }

  strike(time, pitch, velocity) {
    this.to(time);
    const earlier = this.strikes.get(pitch);
    if (earlier !== undefined) { // of one key one strike in a step: with the greatest velocity and the last release
      velocity = Math.max(velocity, earlier);
      this.releases.get(this.step + 1)?.delete(pitch);
    } else if (this.since.has(pitch)) this.end(pitch);
    this.strikes.set(pitch, velocity);
    this.since.set(pitch, this.step);
    this.held.add(pitch);
  }

  release(time, pitch) {
    this.to(time);
    this.held.delete(pitch);
    if (this.since.has(pitch) && !this.pedalDown) this.end(pitch);
  }

  pedal(time, down) {
    this.to(time);
    this.pedalDown = down;
    if (!down) for (const pitch of [...this.since.keys()]) if (!this.held.has(pitch)) this.end(pitch);
  }

  /** What was not yet asked for of the steps before that of `time`. */
  until(time) {
    this.to(time);
    return this.tokens.splice(0);
  }

  /** Closes the steps before that of a time. What comes late is taken to come now. */
  to(time) {
    const step = stepOf(time);
    while (this.step < step && (this.strikes.size || this.releases.size)) {
      this.tell();
      this.step = this.releases.size ? Math.min(...this.releases.keys()) : step;
    }
    this.step = Math.max(this.step, step);
  }

  tell() {
    const byPitch = (a, b) => a - b, releases = [...this.releases.get(this.step) ?? []].sort(byPitch);
    this.releases.delete(this.step);
    if (releases.length || this.strikes.size) {
      this.tokens.push(...shifts(this.step - this.told));
      this.told = this.step;
    }
    this.tokens.push(...releases.map((pitch) => NOTE_OFF + pitch));
    for (const pitch of [...this.strikes.keys()].sort(byPitch)) {
      const bin = (this.strikes.get(pitch) - 1) >> 2;
      if (bin !== this.bin) this.tokens.push(VELOCITY + (this.bin = bin));
      this.tokens.push(pitch);
    }
    this.strikes.clear();
  }

  /** A note's end: now, a step after its strike at the soonest. */
  end(pitch) {
    const at = Math.max(this.step, this.since.get(pitch) + 1);
    this.since.delete(pitch);
    if (!this.releases.has(at)) this.releases.set(at, new Set());
    this.releases.get(at).add(pitch);
  }
}

/** The tokens of so many steps, with the last of less than a second where there is a rest. */
export function shifts(steps) {
  const tokens = [];
  for (let left = steps; left > 0; left -= MAX_SHIFT_STEPS) tokens.push(SHIFT + Math.min(left, MAX_SHIFT_STEPS) - 1);
  return tokens;
}
