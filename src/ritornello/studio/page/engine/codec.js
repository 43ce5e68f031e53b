// Performances as tokens: the vocabulary, pieces to tokens, and tokens to notes as they finish. As `ritornello.codec`.

import {merged} from './midi.js';

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
  const spans = merged(pedals);
  const byKey = [...notes].sort((a, b) => a.pitch - b.pitch || a.start - b.start);
  /** @type {{on: number, off: number, pitch: number, velocity: number}[]} */
  const found = [];
  let again = Infinity; // when the key is struck next
  for (let i = byKey.length - 1; i >= 0; i--) {
    const {pitch, velocity, start, end} = byKey[i];
    const later = byKey[i + 1];
    if (later?.pitch !== pitch) again = Infinity;
    else if (later.start !== start) again = later.start;
    const on = stepOf(start), off = Math.max(stepOf(Math.min(held(spans, end), again)), on + 1);
    const last = found.at(-1);
    if (last && last.pitch === pitch && last.on === on) {
      last.off = Math.max(last.off, off);
      last.velocity = Math.max(last.velocity, velocity);
    } else {
      found.push({on, off, pitch, velocity});
    }
  }
  return found;
}

/** When the pedal lets go what a key lets go at a time. */
function held(spans, time) {
  let [low, high] = [0, spans.length]; // how many spans begin by then
  while (low < high) {
    const middle = (low + high) >> 1;
    [low, high] = spans[middle].start <= time ? [middle + 1, high] : [low, middle];
  }
  return low ? Math.max(time, spans[low - 1].end) : time;
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
