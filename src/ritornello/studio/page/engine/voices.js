// Music in the making: voices that play when they are asked to, by turns, in one thread. The rules are the performer's
// (`ritornello.performing`): no END before there is a note, and no rest longer than people make.

import {
  encode, END, MAX_SHIFT_STEPS, N_EVENTS, NOTE_OFF, SHIFT, START, STEPS_PER_S, stepOf, StreamDecoder, VELOCITY,
} from './codec.js';
import {Grammar} from './grammar.js';
import {CALL_STRIKES} from './motifs.js';
import {Random} from './random.js';
import {complete, draw} from './sampling.js';

/** @typedef {import('./session.js').Model} Model */

const OPENING_S = 8, REST_S = 9, HELD_S = 16; // without a note so far, while no key sounds, while one does
const BREATH_STEPS = 10, BREATH_QUANTILE = 0.95, BREATH_ONSETS = 256; // when a phrase ends: see `performing`
const INSIST_STRIKES = 4, INSIST_NATS = 3; // of a passage that is called back
const RETURN_STEPS = 2_000; // so old is what is called back
const TELL_MS = 50; // how long finished notes may wait for others to be told with
const TURN_MS = 12; // after which messages are let in

/** One stream of notes. It reads what stands before it, plays until its music reaches `until`, and waits. */
class Voice {
  /** @param {Model} model @param {any} asked @param {(message: object) => void} tell */
  constructor(model, {notes = [], pedals = [], seed, sampling, told, from}, tell) {
    const {tokens, steps} = encode(notes, pedals);
    const before = from === undefined ? tokens.length : steps.filter((step) => step < stepOf(from)).length;
    this.from = from === undefined ? steps.at(-1) ?? 0 : stepOf(from);
    this.random = new Random(seed);
    this.sampling = complete(sampling);
    this.told = model.weightsOf(told);
    this.tell = tell;
    this.until = this.toldUpTo = 0;
    this.toldAt = -Infinity;
    this.grammar = new Grammar();
    this.decoder = new StreamDecoder();
    this.unread = [START];
    this.keyStep = 0; // of the last strike or release
    this.breathStep = 0; // where a phrase ended last
    this.hasNotes = this.ended = false;
    this.ready = false; // whether it has read what stands before
    /** @type {Voice | null} */
    this.source = null; // whose session it forks once that is ready
    for (const token of tokens.slice(0, before)) this.take(token);
    this.finished = []; // notes that have not been told
    this.session = Object.assign(model.begin(), {told: this.told});
  }

  /** A voice that goes on from this one's present moment with a seed of its own. */
  fork(seed, tell) {
    const twin = Object.assign(Object.create(Voice.prototype), this);
    Object.assign(twin, {tell, random: new Random(seed), unread: [...this.unread], finished: [...this.finished]});
    for (const part of ['grammar', 'decoder']) twin[part] = this[part].fork();
    twin.toldUpTo = 0;
    if (this.ready) twin.session = this.session.fork();
    else Object.assign(twin, {source: this, session: null});
    return twin;
  }

  close() {
    this.ended = true;
    this.session?.close();
  }

  /** Has what is read from now on read with other weights of the labels. */
  steer(told) {
    this.told = told;
    if (this.session) this.session.told = told;
  }

  /** Goes on from where its source has read to; whether it could. */
  follow() {
    const {source} = this;
    if (source.ended) throw new Error('the stream to go on from was closed');
    if (!source.ready) return false;
    const session = Object.assign(source.session.fork(), {told: this.told});
    Object.assign(this, {session, logits: source.logits, unread: [], ready: true, source: null});
    return true;
  }

  /** A chunk of what stands before, or one event; whether there is more to do now. */
  async turn() {
    if (this.source) return this.follow();
    if (this.ready && this.decoder.step >= this.until * STEPS_PER_S) {
      this.tellNotes();
      return false;
    }
    if (this.unread.length) {
      const read = this.unread.splice(0, this.session.next(this.unread.length));
      this.logits = (await this.session.read(read)).subarray(-N_EVENTS);
      this.ready ||= !this.unread.length;
      return true;
    }
    const token = draw(this.insisted(), this.legal(), this.sampling, this.random.next());
    if (token >= SHIFT && token < VELOCITY && this.sampling.returns) this.leadBack(token - SHIFT + 1);
    this.finished.push(...this.take(token).filter(({start}) => stepOf(start) >= this.from));
    if (token === END) {
      this.tellNotes();
      this.tell({op: 'end', upTo: this.decoder.seconds});
      this.close();
    } else if (this.finished.length && performance.now() > this.toldAt + TELL_MS) {
      this.tellNotes();
    }
    return !this.ended;
  }

  /** What may come next: by the grammar, within the longest rests, and nothing before `from`. */
  legal() {
    const legal = this.grammar.legal(), {step} = this.decoder;
    if (!this.hasNotes) legal[END] = 0;
    const rest = !this.hasNotes ? OPENING_S : this.grammar.anySounds ? HELD_S : REST_S;
    const least = Math.min(Math.max(0, this.from - step), MAX_SHIFT_STEPS);
    const most = Math.min(Math.max(least, this.keyStep + rest * STEPS_PER_S - step), MAX_SHIFT_STEPS);
    legal.fill(0, SHIFT + most, VELOCITY);
    if (least && legal[SHIFT + most - 1]) {
      legal.fill(0, 0, SHIFT + least - 1);
      legal.fill(0, VELOCITY);
    }
    return legal;
  }

  /** Calls a passage back if a phrase ends within the next steps and it is time; see `Take.play` in Python. */
  leadBack(steps) {
    const {motifs} = this.session, now = this.decoder.step + steps;
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
    if (motifs.called || (motifs.next >= 0 && motifs.followed >= CALL_STRIKES)) return;
    const begins = [];
    for (let n = oldest; n < count && onset(n) <= now - RETURN_STEPS; n++) {
      if (n === oldest || onset(n) - onset(n - 1) >= breath) begins.push(n);
    }
    if (begins.length && this.random.next() < -Math.expm1(-this.sampling.returns * since / 60)) {
      motifs.call(begins[Math.trunc(this.random.next() * begins.length)]);
    }
  }

  /** The logits, those of what begins a passage that was called back raised. */
  insisted() {
    const {motifs} = this.session;
    if (!motifs || motifs.called <= CALL_STRIKES - INSIST_STRIKES) return this.logits;
    const {pitch} = motifs.upcoming(), logits = this.logits.slice();
    if (pitch >= 0) logits[pitch] += INSIST_NATS;
    return logits;
  }

  take(token) {
    this.unread.push(token);
    this.grammar.advance(token);
    const finished = this.decoder.feed(token);
    if (token < SHIFT) this.keyStep = this.decoder.step;
    this.hasNotes ||= token < NOTE_OFF;
    return finished;
  }

  tellNotes() {
    const open = [...this.decoder.open.values()].map(({step}) => step).filter((step) => step >= this.from);
    const upTo = Math.min(this.decoder.step, ...open) / STEPS_PER_S;
    if (this.finished.length || upTo > this.toldUpTo) {
      this.tell({op: 'notes', notes: this.finished, pedals: [], upTo});
    }
    [this.finished, this.toldUpTo, this.toldAt] = [[], upTo, performance.now()];
  }
}

/** Mean nats/token, among legal events, of what happens from one time up to another. */
class Score {
  /** @param {Model} model @param {any} asked @param {(message: object) => void} tell */
  constructor(model, {notes, pedals = [], from, to}, tell) {
    const {tokens, steps} = encode(notes, pedals);
    this.tokens = tokens.slice(0, steps.filter((step) => step < stepOf(to)).length);
    this.first = steps.filter((step) => step < stepOf(from)).length;
    this.tell = tell;
    this.session = model.begin();
    this.grammar = new Grammar();
    this.place = this.nats = 0;
    this.ended = false;
  }

  close() {
    this.ended = true;
    this.session.close();
  }

  async turn() {
    const {tokens, grammar, place} = this;
    if (place < tokens.length) {
      const given = place ? tokens.slice(place - 1, -1) : [START, ...tokens.slice(0, -1)];
      const read = given.slice(0, this.session.next(given.length));
      const logits = await this.session.read(read);
      read.forEach((_, i) => {
        const token = tokens[place + i];
        if (place + i >= this.first) this.nats += nats(logits.subarray(i * N_EVENTS), grammar.legal(), token);
        grammar.advance(token);
      });
      this.place += read.length;
      return true;
    }
    const scored = tokens.length - this.first;
    this.tell({op: 'score', nats: scored > 0 ? this.nats / scored : null});
    this.close();
    return false;
  }
}

function nats(logits, legal, token) {
  let total = 0;
  legal.forEach((may, i) => { if (may) total += Math.exp(logits[i] - logits[token]); });
  return Math.log(total);
}

/** Answers messages, and has all voices play by turns, so that a long prompt stops nobody. */
export class Player {
  /** @param {(message: object) => void} tell */
  constructor(model, tell) {
    this.model = model;
    this.tell = tell;
    this.tasks = new Map();
    this.busy = this.woken = false;
  }

  /** @param {any} message */
  take({op, id, ...content}) {
    const tell = (message) => this.tell({id, ...message});
    const task = this.tasks.get(op === 'fork' ? content.of : id);
    try {
      if (op === 'start') this.tasks.set(id, new Voice(this.model, content, tell));
      else if (op === 'score') this.tasks.set(id, new Score(this.model, content, tell));
      else if (op === 'fork' && task) this.tasks.set(id, task.fork(content.seed, tell));
      else if (op === 'fork') throw new Error('this stream has ended; start another');
      else if (op === 'advance' && task) task.until = Math.max(task.until, content.until);
      else if (op === 'sampling' && task) task.sampling = complete(content.sampling);
      else if (op === 'told' && task) task.steer(this.model.weightsOf(content.told));
      else if (op === 'close') this.drop(id);
    } catch (error) {
      tell({op: 'error', message: error.message});
    }
    this.woken = true;
    this.play();
  }

  drop(id) {
    const task = this.tasks.get(id);
    this.tasks.delete(id);
    if (task && !task.ended) task.close();
  }

  async play() {
    if (this.busy) return;
    this.busy = true;
    for (let since = performance.now(); this.woken;) {
      this.woken = false;
      for (const [id, task] of [...this.tasks]) {
        if (this.tasks.get(id) !== task) continue; // closed meanwhile
        try {
          if (await task.turn()) this.woken = true;
          if (task.ended) this.tasks.delete(id);
        } catch (error) {
          this.tell({id, op: 'error', message: error.message});
          this.drop(id);
        }
      }
      if (performance.now() > since + TURN_MS) {
        await messages();
        since = performance.now();
      }
    }
    this.busy = false;
  }
}

/** Lets messages in. A timer would wait longer than a token takes. */
function messages() {
  return new Promise((resolve) => {
    const {port1, port2} = new MessageChannel();
    port1.onmessage = () => { port1.close(); resolve(undefined); };
    port2.postMessage(null);
  });
}
