// One performance in the making, at one moment: a session, the grammar, and the notes that sound. The rules are those of
// `ritornello.take.Take`: no END before a piece is as long as the shortest that the model learnt from, and no rest and
// no note longer than people make them.

import {
  END, MAX_SHIFT_STEPS, N_EVENTS, N_PITCHES, NOTE_OFF, SHIFT, START, STEPS_PER_S, StreamDecoder, VELOCITY,
} from './codec.js';
import {Grammar} from './grammar.js';
import {CALL_STRIKES} from './motifs.js';
import {draw} from './sampling.js';

/** @typedef {import('./sampling.js').Sampling} Sampling */

const OPENING_S = 8, REST_S = 4.5, HELD_S = 9; // without a note so far, while no key sounds, while one does
const LONGEST_STEPS = 3_800; // so long a key is held at most
const BREATH_STEPS = 10, BREATH_QUANTILE = 0.95, BREATH_ONSETS = 256; // when a phrase ends: see `take.py`
const RESTRIKE_STEPS = 6, MOST_STRIKES = 52; // so soon no key is struck again; of all keys the most in a second
const INSIST_NATS = 5; // by which what is called back is likelier than the model says
const OLD_STEPS = 3_000; // what is called back is as old as that, or older
const RETURN_STRIKES = 24, LONGER_STRIKES = 40; // of a passage, and more in the mean
export {REST_S};

export class Take {
  /** @param {any} model */
  constructor(model) {
    this.session = model.begin();
    this.shortestSteps = Math.round((model.config.shortestSeconds ?? 0) * STEPS_PER_S);
    this.grammar = new Grammar();
    this.decoder = new StreamDecoder();
    this.unread = [START]; // drawn and not yet read: what follows the end is never asked for
    this.logits = new Float32Array(0);
    this.keyStep = 0; // of the last strike or release
    this.struckSteps = new Int32Array(N_PITCHES).fill(-MAX_SHIFT_STEPS); // by key, when it was struck last
    this.strikeSteps = new Int32Array(MOST_STRIKES).fill(-MAX_SHIFT_STEPS); // when the last strikes were, in a ring
    this.strikes = 0;
    this.silentUntil = 0; // the step before which nothing more happens
    this.breathStep = 0; // where a phrase ended last
    this.hasNotes = false;
  }

  get step() {
    return this.decoder.step;
  }

  /** Another at the same moment. */
  fork() {
    const twin = Object.assign(Object.create(Take.prototype), this);
    for (const part of ['session', 'grammar', 'decoder']) twin[part] = this[part].fork();
    twin.unread = [...this.unread];
    for (const steps of ['struckSteps', 'strikeSteps']) twin[steps] = this[steps].slice();
    return twin;
  }

  close() {
    this.session.close();
  }

  /** Takes an event that is read later; the notes that it ends. */
  take(token) {
    this.unread.push(token);
    this.grammar.advance(token);
    const finished = this.decoder.feed(token);
    if (token < SHIFT) this.keyStep = this.step;
    if (token < NOTE_OFF) {
      this.hasNotes = true;
      this.struckSteps[token] = this.strikeSteps[this.strikes++ % MOST_STRIKES] = this.step;
    }
    return finished;
  }

  /** Reads a part of what is unread; whether there is more. */
  async read() {
    const read = this.unread.splice(0, this.session.next(this.unread.length));
    this.logits = (await this.session.read(read)).subarray(-N_EVENTS);
    return this.unread.length > 0;
  }

  /** Reads all of it, without a pause: the model's graphs must be loaded. */
  readAll() {
    while (this.unread.length) {
      const read = this.unread.splice(0, this.session.next(this.unread.length));
      this.logits = this.session.readNow(read).subarray(-N_EVENTS);
    }
  }

  /** Takes events that others played; nothing that the model plays then lies before a step. */
  hear(tokens, silentUntil = 0) {
    for (const token of tokens) this.take(token);
    this.readAll();
    this.silentUntil = silentUntil;
  }

  /**
   * The next event, drawn with one number.
   * @param {Required<Sampling>} sampling @param {import('./random.js').Random} random
   */
  play(sampling, random, mayEnd = true) {
    this.readAll();
    const token = draw(this.weighed(), this.legal(mayEnd), sampling, random.next());
    if (token >= SHIFT && token < VELOCITY && sampling.returns) this.leadBack(token - SHIFT + 1, sampling.returns, random);
    const {velocity} = this.decoder, isKey = token < SHIFT;
    const finished = this.take(token);
    return {token, finished, pitch: isKey ? token % N_PITCHES : -1, velocity: token < NOTE_OFF ? velocity : 0};
  }

  /** What may come next: by the grammar, within the longest rests, and nothing before `silentUntil`. */
  legal(mayEnd) {
    const legal = this.grammar.legal(), {step} = this, {sounding, anySounds} = this.grammar;
    if (!mayEnd || !this.hasNotes || step < this.shortestSteps) legal[END] = 0;
    const slower = legal.slice();
    for (let key = 0; key < N_PITCHES; key++) if (step - this.struckSteps[key] < RESTRIKE_STEPS) slower[key] = 0;
    const wait = STEPS_PER_S + this.strikeSteps[this.strikes % MOST_STRIKES] - step;
    if (wait > 0) {
      slower.fill(0, 0, NOTE_OFF).fill(0, VELOCITY, END);
      if (!anySounds) slower.fill(0, SHIFT, SHIFT + wait - 1); // after a shorter one nothing could come
    }
    if (slower.some(Boolean)) legal.set(slower);
    const rest = !this.hasNotes ? OPENING_S : anySounds ? HELD_S : REST_S;
    const least = Math.min(Math.max(0, this.silentUntil - step), MAX_SHIFT_STEPS);
    const letGo = this.struckSteps.map((struck) => struck + LONGEST_STEPS); // at the latest
    const overdue = letGo.findIndex((last, key) => last <= step && legal[NOTE_OFF + key]);
    if (overdue >= 0 && !least) legal.fill(0)[NOTE_OFF + overdue] = 1;
    const first = Math.min(...letGo.filter((_, key) => sounding[key])); // Infinity if none sounds
    const last = Math.min(this.keyStep + rest * STEPS_PER_S, Math.max(first, step + 1));
    const most = Math.min(Math.max(least, last - step), MAX_SHIFT_STEPS);
    legal.fill(0, SHIFT + most, VELOCITY);
    if (least && legal[SHIFT + most - 1]) {
      legal.fill(0, 0, SHIFT + least - 1);
      legal.fill(0, VELOCITY);
    }
    return legal;
  }

  /** The logits, that of how a passage that was called back goes on raised. */
  weighed() {
    const logits = this.logits.slice(), event = this.session.motifs?.insisted ?? -1;
    if (event >= 0) logits[event] += INSIST_NATS;
    return logits;
  }

  /** Calls a passage back if a phrase ends within the next steps and it is time; see `Take.play` in Python. */
  leadBack(steps, returns, random) {
    const {motifs} = this.session, now = this.step + steps;
    if (!motifs?.mayCall || now - motifs.lastOnset < BREATH_STEPS) return;
    const {count, notes, onsets} = motifs, oldest = Math.max(0, count - notes + 1);
    const onset = (n) => onsets[n % notes], waits = [];
    for (let n = count - 1; n > oldest && waits.length < BREATH_ONSETS; n--) {
      if (onset(n) > onset(n - 1)) waits.push(onset(n) - onset(n - 1));
    }
    waits.sort((a, b) => a - b);
    const breath = Math.max(BREATH_STEPS, waits[Math.trunc(BREATH_QUANTILE * (waits.length - 1))] ?? 0);
    if (motifs.lastOnset + breath <= now - steps || motifs.lastOnset + breath > now) return;
    const since = (now - this.breathStep) / STEPS_PER_S;
    this.breathStep = now;
    if (motifs.called || motifs.returning || (motifs.next >= 0 && motifs.followed >= CALL_STRIKES)) return;
    const begins = [];
    for (let n = oldest; n < count && onset(n) <= now - OLD_STEPS; n++) {
      if (n === oldest || onset(n) - onset(n - 1) >= breath) begins.push(n);
    }
    if (!begins.length || random.next() >= -Math.expm1(-returns * since / 60)) return;
    const place = begins[Math.trunc(random.next() * begins.length)];
    const strikes = RETURN_STRIKES + Math.trunc(-LONGER_STRIKES * Math.log1p(-random.next()));
    motifs.call(place, strikes);
  }
}
