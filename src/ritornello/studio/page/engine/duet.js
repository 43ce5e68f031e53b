// A duet: a person plays, the model reads along, takes over, and hands back at the next key. As `ritornello.duet`, which
// says why; both pass the same scenarios. It knows no clock: all times are seconds of one that does not go back.

import {NOTE_OFF, SHIFT, shifts, STEPS_PER_S, StreamEncoder, VELOCITY} from './codec.js';
import {REST_S, Take} from './take.js';

export const TAKEOVERS = ['pedal', 'silence', 'key'], HANDBACKS = ['key', 'pedal'];
export const KEY = 21; // the lowest of a piano
const AHEAD_S = 0.5, MOST_AHEAD_S = 4; // how far ahead of the clock the model plays: twice as far once a key
const LATE_S = 0.01; // comes so late
const PACE_STRIKES = 32, PACE_QUANTILE = 0.9, PACE_FACTOR = 3;
const LEAST_SILENCE_S = 0.6, MOST_SILENCE_S = 4;
const IDLE_S = 0.05; // between looks at the clock while nothing is due
const PEDAL = 64;

export class Duet {
  /**
   * @param {any} model whose graphs are loaded
   * @param {(pitch: number, velocity: number, at: number) => void} send takes the model's keys, `lead` before their time
   * @param {{random: import('./random.js').Random, sampling: Required<import('./sampling.js').Sampling>,
   *   told: Float32Array, takeover?: string, key?: number, handback?: string, lead?: number}} options
   */
  constructor(model, send, {random, sampling, told, takeover = 'silence', key = KEY, handback = 'key', lead = 0}) {
    Object.assign(this, {send, random, key, lead});
    this.agree(takeover, handback);
    this.sampling = sampling; // may be replaced at any time,
    this.told = told; // and this from turn to turn
    /** @type {{start: number, end: number, pitch: number, velocity: number, byModel: boolean}[]} */
    this.notes = []; // what sounded and is over; seconds from the first key
    /** @type {[number, number][]} */
    this.pedals = []; // spans of the person's pedal
    this.began = null; // when step 0 of the heard take is
    this.first = 0; // when the first key was struck
    this.heard = new Take(model); // all that sounded, from both
    this.heard.session.told = told;
    this.encoder = new StreamEncoder();
    this.held = new Map(); // the person's keys: since when, and velocity
    this.down = null; // since when the person's pedal is
    this.strikes = [];
    this.last = 0; // when something last happened that the heard take knows of
    this.hasTurn = true; // the person has struck a key since the model played last
    /** @type {Take | null} */
    this.prefetched = null; // the model's, while it plays
    this.reserve = AHEAD_S;
    this.plan = []; // its events that have not been sent,
    this.coming = []; // and those that are not due yet
    this.sent = new Set(); // its keys that are down, as they were sent
    this.unheard = []; // its events that have sounded
    this.sounding = new Map(); // its keys: since when, and velocity
  }

  /** Has turns change otherwise from now on. */
  agree(takeover, handback) {
    if (!TAKEOVERS.includes(takeover)) throw new Error(`unknown takeover ${takeover}`);
    if (!HANDBACKS.includes(handback)) throw new Error(`unknown handback ${handback}`);
    Object.assign(this, {takeover, handback});
  }

  /** Whether it is the model's turn. */
  get playing() {
    return this.prefetched !== null;
  }

  /** How long the person may be silent before the model comes in, guessed from their pace. */
  get silence() {
    const gaps = this.strikes.slice(1).map((time, i) => time - this.strikes[i]).sort((a, b) => a - b);
    const pace = gaps.length ? quantile(gaps, PACE_QUANTILE) : MOST_SILENCE_S;
    return Math.min(Math.max(PACE_FACTOR * pace, LEAST_SILENCE_S), MOST_SILENCE_S);
  }

  /** What a MIDI message says of keys and pedal, on whatever channel; all others change nothing. */
  obey(time, [status = 0, first, second]) {
    if (second === undefined) return;
    const [kind, number, value] = [status & 0xf0, first & 127, second & 127];
    if (kind === 0xb0 && number === PEDAL) this.pedal(time, value >= 64);
    else if (kind === 0x90 && value) this.strike(time, number, value);
    else if (kind === 0x80 || kind === 0x90) this.release(time, number);
  }

  strike(time, pitch, velocity) {
    if (this.takeover === 'key' && pitch === this.key) {
      if (this.playing) this.interrupt(time);
      else if (this.began !== null) this.takeOver(time);
      return;
    }
    if (this.playing) this.interrupt(time);
    if (this.began === null) this.began = this.first = this.last = time;
    this.skipRest(time);
    if (this.held.has(pitch)) this.note(this.held, time, pitch, false);
    this.encoder.strike(time - this.began, pitch, velocity);
    this.held.set(pitch, {time, velocity});
    this.strikes.push(time);
    if (this.strikes.length > PACE_STRIKES) this.strikes.shift();
    this.hasTurn = true;
  }

  release(time, pitch) {
    if (!this.held.has(pitch)) return;
    this.note(this.held, time, pitch, false);
    if (this.playing) return;
    this.encoder.release(time - this.began, pitch);
    this.last = time;
  }

  pedal(time, down) {
    if (down === (this.down !== null)) return;
    if (this.down !== null && this.began !== null && time > this.first) {
      this.pedals.push([Math.max(this.down - this.first, 0), time - this.first]);
    }
    this.down = down ? time : null;
    if (this.playing) {
      if (down && this.handback === 'pedal') this.interrupt(time);
      return;
    }
    this.encoder.pedal(time - (this.began ?? time), down);
    this.last = time;
    if (!down && this.takeover === 'pedal' && this.began !== null && this.hasTurn && !this.held.size) this.takeOver(time);
  }

  /** Does what is due, and a little of what can be done ahead; for how many seconds nothing is due then. */
  tick(time) {
    if (this.began === null) return IDLE_S;
    if (!this.prefetched) return this.listen(time);
    while (this.planned <= time + this.lead) this.play(time);
    this.sound(time);
    if (this.moment(this.prefetched.step) - time < this.reserve + this.lead) {
      this.playOn();
      return 0;
    }
    if (this.hearOwn()) return 0;
    return Math.min(IDLE_S, this.planned - this.lead - time, (this.coming[0]?.at ?? Infinity) - time);
  }

  /** Ends the model's turn: its keys are let go, and what it had planned is forgotten. */
  interrupt(time) {
    if (!this.prefetched) return;
    this.sound(time);
    for (const pitch of [...this.sounding.keys()].sort((a, b) => a - b)) {
      this.send(pitch, 0, time);
      this.note(this.sounding, time, pitch, true);
    }
    this.prefetched.close();
    this.prefetched = null;
    [this.plan, this.coming] = [[], []];
    this.sent.clear();
    while (this.hearOwn());
    this.unheard = []; // a rest that was not over
    const step = Math.max(this.step(time), this.heard.step + 1), {sounding} = this.heard.grammar;
    const left = [...sounding.keys()].filter((pitch) => sounding[pitch]);
    if (left.length) this.heard.hear([...shifts(step - this.heard.step), ...left.map((pitch) => NOTE_OFF + pitch)]);
    this.encodeFrom(step);
    [this.hasTurn, this.last] = [false, time];
  }

  /** Ends the duet: no key is left down, and `notes` and `pedals` are whole. */
  finish(time) {
    this.interrupt(time);
    for (const pitch of [...this.held.keys()]) this.note(this.held, time, pitch, false);
    this.pedal(time, false);
  }

  /** Gives the memories back. */
  close() {
    this.heard.close();
    this.prefetched?.close();
    this.prefetched = null;
  }

  listen(time) {
    const mayComeIn = this.takeover === 'silence' && this.hasTurn && !this.held.size;
    if (mayComeIn && time - this.last >= this.silence) {
      this.takeOver(time);
      return 0;
    }
    const tokens = this.encoder.until(time - this.began);
    if (tokens.length) this.heard.hear(tokens);
    return IDLE_S;
  }

  takeOver(time) {
    this.heard.hear(this.encoder.until(time - this.began + 1 / STEPS_PER_S));
    this.skipRest(time);
    this.heard.hear([], Math.max(this.step(time), this.heard.step));
    this.heard.session.told = this.told;
    this.prefetched = this.heard.fork();
    this.playOn();
  }

  /** One event more into the plan. */
  playOn() {
    const {token, pitch, velocity} = this.prefetched.play(this.sampling, this.random, false);
    this.plan.push({step: this.prefetched.step, token, pitch, velocity});
  }

  /** When the first planned moment is, once no more can come that belongs to it: until then, never. */
  get planned() {
    if (!this.plan.length || this.plan[0].step === this.prefetched.step) return Infinity;
    return this.moment(this.plan[0].step);
  }

  /** Sends the keys of the first planned moment together, for its time, or for now where that is over. */
  play(time) {
    const [{step}] = this.plan, at = Math.max(this.planned, time), late = at - this.planned;
    const events = this.plan.filter((event) => event.step === step);
    this.plan.splice(0, events.length);
    for (const {token, pitch, velocity} of events) {
      this.coming.push({at, token, pitch, velocity});
      if (!velocity && !this.sent.has(pitch)) continue; // no key, or one of the person's, which is theirs to let go
      if (velocity) this.sent.add(pitch);
      else this.sent.delete(pitch);
      this.send(pitch, velocity, at);
    }
    if (late > LATE_S && events.some(({velocity}) => velocity)) {
      this.reserve = Math.min(2 * this.reserve, MOST_AHEAD_S);
      this.began += late; // what is to come hesitates once, instead of rushing after time
    }
  }

  /** Takes what was sent and is due now as having sounded. */
  sound(time) {
    while (this.coming.length && this.coming[0].at <= time) {
      const {at, token, pitch, velocity} = this.coming.shift();
      this.unheard.push(token);
      if (velocity) this.sounding.set(pitch, {time: at, velocity});
      else if (this.sounding.has(pitch)) this.note(this.sounding, at, pitch, true);
    }
  }

  /** Reads the model's next event that has sounded, with the rest before it; whether there was one. */
  hearOwn() {
    const last = this.unheard.findIndex((token) => token < SHIFT || token >= VELOCITY);
    if (last >= 0) this.heard.hear(this.unheard.splice(0, last + 1));
    return last >= 0;
  }

  /** What the person does from a step on comes behind what was heard. */
  encodeFrom(step) {
    this.encoder = new StreamEncoder(this.heard.step, (this.heard.decoder.velocity - 1) >> 2, step);
    this.encoder.pedal(step / STEPS_PER_S, this.down !== null);
  }

  /** Stops the music's clock where nothing happens for longer than anybody rests in music. */
  skipRest(time) {
    const rest = time - this.last;
    this.last = time;
    if (rest <= REST_S || this.held.size || this.encoder.anySounds) return;
    this.heard.hear(this.encoder.until(time - this.began));
    this.began += rest - REST_S;
    this.encodeFrom(this.step(time));
  }

  note(keys, time, pitch, byModel) {
    const key = keys.get(pitch);
    keys.delete(pitch);
    this.notes.push({start: key.time - this.first, end: time - this.first, pitch, velocity: key.velocity, byModel});
  }

  moment(step) {
    return step / STEPS_PER_S + this.began;
  }

  step(time) {
    return Math.floor((time - this.began) * STEPS_PER_S + 0.5);
  }
}

/** As NumPy's, of sorted numbers. */
function quantile(sorted, share) {
  const place = share * (sorted.length - 1), low = Math.floor(place), part = place - low;
  const [a, b] = [sorted[low], sorted[Math.min(low + 1, sorted.length - 1)]];
  return part < 0.5 ? a + (b - a) * part : b - (b - a) * (1 - part);
}
