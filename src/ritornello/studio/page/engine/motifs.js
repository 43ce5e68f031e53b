// The motif memory: what followed the last time that the music went as it goes now, told to the model with every token.
// A port of `ritornello.codec.motifs`, which says how it works; the two are bound by vectors.

import {
  DEFAULT_VELOCITY_BIN, END, MAX_SHIFT_STEPS, N_EVENTS, N_PITCHES, N_VELOCITY_BINS, NOTE_OFF, SHIFT, VELOCITY,
} from './codec.js';

const INTERVALS = 3, LOOK_AHEAD = 4, LATE_STEPS = 5, MAX_MISSES = 4, MAX_MATCH = 24;
const MAX_FOLLOWED = 16, N_AGES = 11, AGE_STEPS = 50;
export const CALL_STRIKES = 24; // of a passage that is called back are told as such

// Each column of a hint is an id in one table; the last id of a column says that there is nothing to tell.
const PITCH = N_EVENTS;
const WAIT = PITCH + N_PITCHES + 1;
const LOUDNESS = WAIT + MAX_SHIFT_STEPS + 2;
const SECOND = LOUDNESS + N_VELOCITY_BINS + 1;
const FOLLOWED = SECOND + N_PITCHES + 1;
const AGE = FOLLOWED + MAX_FOLLOWED + 1;
const N_HINTS = AGE + N_AGES + 1;
const CALLED = N_HINTS; // in the place of strikes followed, of models that can be called back
export const HINT_COLUMNS = 7;

const NOTHING = [END, WAIT - 1, LOUDNESS - 1, SECOND - 1, FOLLOWED - 1, FOLLOWED, N_HINTS - 1];
const NEVER = 1 << 30;

export class MotifMemory {
  /** @param {number} notes strikes that are remembered @param {boolean} mayCall whether calls are told as such */
  constructor(notes, mayCall = false) {
    this.notes = notes;
    this.mayCall = mayCall;
    this.called = 0; // strikes that are still to be told as called back
    this.end = 0; // the old strike before which the passage that was called back ends
    this.onsets = new Int32Array(notes); // of a strike, in steps
    this.strikes = new Uint32Array(notes); // its duration in steps << 12 | velocity bin << 7 | pitch
    this.places = new Int32Array(notes).fill(-1); // by the hash of intervals: the strike that they ended with last
    this.sounding = new Int32Array(N_PITCHES).fill(-1); // by key: the strike that it sounds from
    this.due = new Map(); // by sounding key: the step in which the old passage lets it go
    this.count = this.now = 0; // strikes so far; steps
    this.velocity = DEFAULT_VELOCITY_BIN;
    this.last = -1; // the last event
    this.struck = this.released = -1; // the last key struck in this step, and the last let go
    this.next = -1; // the pointer: the first old strike that is still to come; -1 for none
    this.used = 0; // bit d: the old strike at next + d has been followed
    this.followed = this.missed = 0;
    this.shift = 0; // semitones from the old passage to this
    this.old = this.new = 0; // when the strike that was followed last was struck then and now
  }

  fork() {
    const twin = Object.assign(Object.create(MotifMemory.prototype), this);
    for (const name of ['onsets', 'strikes', 'places', 'sounding']) twin[name] = this[name].slice();
    twin.due = new Map(this.due);
    return twin;
  }

  /** The step of the last strike; of the piece's start while there is none. */
  get lastOnset() {
    return this.count ? this.onsets[(this.count - 1) % this.notes] : 0;
  }

  /** Whether a passage that was called back is followed and not yet at its end. */
  get returning() {
    return this.next >= 0 && this.next < this.end;
  }

  /** The event with which a passage that is called back goes on, the key that begins it at first; -1 for none. */
  get insisted() {
    if (!this.returning) return -1;
    const {pitch, wait, loudness} = this.upcoming();
    const event = this.called === CALL_STRIKES ? pitch : this.event(pitch, wait, loudness);
    return event < END ? event : -1;
  }

  /** Sets the pointer to a strike by its number, with which a passage of so many begins. */
  call(place, strikes = CALL_STRIKES) {
    if (place < Math.max(0, this.count - this.notes + 1) || place >= this.count) throw new Error(`strike ${place} is not remembered`);
    [this.next, this.used, this.followed, this.missed] = [place, 0, 0, 0];
    [this.shift, this.called, this.end] = [0, CALL_STRIKES, Math.min(place + strikes, this.count)]; // not into itself
    this.due.clear();
  }

  /** Takes one event, legal or not; specials change nothing. */
  advance(token) {
    if (token >= END) return;
    if (token < NOTE_OFF) {
      this.strike(token);
    } else if (token < SHIFT) {
      this.release(token - NOTE_OFF);
    } else if (token < VELOCITY) {
      this.now += token - SHIFT + 1;
      this.struck = this.released = -1;
    } else {
      this.velocity = token - VELOCITY;
    }
    this.last = token;
  }

  /** What the old passage goes on with: an id for every column. */
  hint() {
    const {pitch, second, wait, loudness} = this.upcoming();
    const begins = this.called === CALL_STRIKES; // and when that is to be is not known
    const event = begins ? this.event(-1, NEVER, 0) : this.event(pitch, wait, loudness);
    if (pitch < 0) return [event, ...NOTHING.slice(1)];
    const age = Math.floor((this.now - this.onsets[this.next % this.notes]) / AGE_STEPS);
    return [
      event,
      PITCH + pitch,
      begins ? NOTHING[2] : WAIT + Math.min(wait, MAX_SHIFT_STEPS),
      LOUDNESS + loudness,
      SECOND + second,
      this.called && this.mayCall ? CALLED : FOLLOWED + (this.called ? MAX_FOLLOWED : Math.min(this.followed, MAX_FOLLOWED)),
      AGE + Math.min(32 - Math.clz32(age), N_AGES - 1),
    ];
  }

  strike(pitch) {
    const n = this.count++;
    this.onsets[n % this.notes] = this.now;
    this.strikes[n % this.notes] = (this.velocity << 7) | pitch;
    this.sounding[pitch] = n;
    this.struck = pitch;
    let old = this.find(pitch);
    const found = this.place(n), place = this.called ? -1 : found;
    if (place >= 0 && (this.next < 0 || (place + 1 !== this.next && this.match(place, n) > this.followed))) {
      old = place;
      [this.next, this.used, this.missed, this.end] = [place + 1, 0, 0, 0];
      [this.followed, this.shift] = [this.match(place, n), pitch - this.pitch(place)];
    }
    this.due.delete(pitch);
    if (old < 0) return;
    [this.old, this.new] = [this.onsets[old % this.notes], this.now];
    const duration = this.strikes[old % this.notes] >>> 12;
    if (duration) this.due.set(pitch, this.now + duration);
  }

  release(pitch) {
    const n = this.sounding[pitch];
    [this.sounding[pitch], this.released] = [-1, pitch];
    this.due.delete(pitch);
    if (n > this.count - this.notes && n >= 0) {
      const duration = Math.max(1, Math.min(this.now - this.onsets[n % this.notes], (1 << 20) - 1));
      this.strikes[n % this.notes] |= duration << 12;
    }
  }

  /** The old strike that a new one follows, and the pointer moved on; -1 for none. */
  find(pitch) {
    if (this.next >= 0 && this.next <= this.count - this.notes) [this.next, this.called, this.end] = [-1, 0, 0]; // forgotten
    if (this.next < 0) return -1;
    for (let d = 0; d < Math.min(LOOK_AHEAD, this.count - 1 - this.next); d++) {
      const old = this.next + d;
      if ((this.used >> d) & 1 || this.pitch(old) + this.shift !== pitch) continue;
      this.used |= 1 << d;
      this.followed += 1;
      this.missed = 0;
      this.called = Math.max(0, this.called - 1);
      const leftOut = this.onsets[old % this.notes] - LATE_STEPS;
      while (this.used & 1 || (this.used && this.onsets[this.next % this.notes] < leftOut)) {
        this.used >>= 1;
        this.next += 1;
      }
      return old;
    }
    this.followed >>= 2;
    this.missed += 1;
    if (this.missed > MAX_MISSES) [this.next, this.called, this.end] = [-1, 0, 0];
    return -1;
  }

  /** The strike before n whose last intervals were those of n, -1 for none; n takes its place. */
  place(n) {
    if (n < INTERVALS) return -1;
    const [a, b, c] = this.intervals(n);
    const slot = (a * 16_633 + b * 257 + c) % this.notes;
    const at = slot < 0 ? slot + this.notes : slot;
    const place = this.places[at];
    this.places[at] = n;
    if (place - INTERVALS <= n - this.notes || place < INTERVALS) return -1;
    const [d, e, f] = this.intervals(place);
    return a === d && b === e && c === f ? place : -1;
  }

  intervals(n) {
    return [2, 1, 0].map((back) => this.pitch(n - back) - this.pitch(n - back - 1));
  }

  /** How many intervals before two strikes are alike, `MAX_MATCH` at most. */
  match(place, n) {
    const shift = this.pitch(n) - this.pitch(place), oldest = Math.max(0, n - this.notes + 1);
    for (let length = 1; length <= MAX_MATCH; length++) {
      if (place - length < oldest || this.pitch(n - length) - this.pitch(place - length) !== shift) {
        return length - 1;
      }
    }
    return MAX_MATCH;
  }

  pitch(n) {
    return this.strikes[n % this.notes] & 127;
  }

  /** Pitch of the old passage's next strike (-1 for none) and of the one after it, steps until then, velocity bin. */
  upcoming() {
    const at = this.next, nothing = {pitch: -1, second: N_PITCHES, wait: NEVER, loudness: 0};
    if (at < 0 || at >= this.count || at <= this.count - this.notes) return nothing;
    const strike = this.strikes[at % this.notes];
    const pitch = (strike & 127) + this.shift;
    if (pitch < 0 || pitch >= N_PITCHES) return nothing;
    let second = N_PITCHES;
    for (let d = 1; d < LOOK_AHEAD; d++) {
      if (at + d < this.count && !((this.used >> d) & 1)) {
        const later = this.pitch(at + d) + this.shift;
        second = later >= 0 && later < N_PITCHES ? later : N_PITCHES;
        break;
      }
    }
    const wait = this.new + this.onsets[at % this.notes] - this.old - this.now;
    return {pitch, second, wait: Math.max(wait, 0), loudness: (strike >>> 7) & 31};
  }

  /** What comes first of the next strike and the releases that are due, as an event that the grammar allows. */
  event(pitch, wait, loudness) {
    const barred = this.struck >= 0 ? N_PITCHES : this.released; // keys up to it are not let go in this step
    let [first, key] = [NEVER, -1];
    const consider = (step, candidate) => {
      const until = Math.max(step - this.now, Number(candidate <= barred));
      if (until < first || (until === first && candidate < key)) [first, key] = [until, candidate];
    };
    for (const [candidate, step] of this.due) consider(step, candidate);
    if (pitch >= 0) {
      if (this.sounding[pitch] >= 0) { // let go before it is struck again
        consider(wait + this.now, pitch);
        wait = NEVER;
      } else if (pitch <= this.struck) {
        wait = Math.max(wait, 1);
      }
    }
    if (this.last >= VELOCITY) return wait < NEVER && pitch > this.struck ? pitch : END;
    const soonest = Math.min(wait, first);
    if (soonest === NEVER) return END;
    if (soonest && !(this.last >= SHIFT && this.last < VELOCITY - 1)) {
      return SHIFT + Math.min(soonest, MAX_SHIFT_STEPS) - 1;
    }
    if (first <= wait) return NOTE_OFF + key;
    return loudness === this.velocity ? pitch : VELOCITY + loudness;
  }
}
