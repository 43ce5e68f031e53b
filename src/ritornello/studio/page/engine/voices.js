// Music in the making: voices that play when they are asked to, by turns, in one thread; a partner plays by the clock.

import {encode, END, N_EVENTS, START, stepOf, STEPS_PER_S} from './codec.js';
import {Duet} from './duet.js';
import {Grammar} from './grammar.js';
import {Random} from './random.js';
import {complete} from './sampling.js';
import {Take} from './take.js';

/** @typedef {import('./session.js').Model} Model */

const TELL_MS = 50; // how long finished notes may wait for others to be told with
const TURN_MS = 12; // after which messages are let in
const LEAD_S = 0.1; // how long before their time a partner's keys are told
const NOW = 0, LATER = Infinity; // seconds until there is something to do again

/** One stream of notes. It reads what stands before it, plays until the notes up to `until` are over, and waits. */
class Voice {
  /** @param {Model} model @param {any} asked @param {(message: object) => void} tell */
  constructor(model, {notes = [], pedals = [], seed, sampling, told, from}, tell) {
    const {tokens, steps} = encode(notes, pedals);
    const before = from === undefined ? tokens.length : steps.filter((step) => step < stepOf(from)).length;
    this.from = from === undefined ? steps.at(-1) ?? 0 : stepOf(from);
    this.random = new Random(seed);
    this.sampling = complete(sampling);
    this.tell = tell;
    this.until = 0;
    this.toldStep = -1;
    this.toldAt = -Infinity;
    this.ended = false;
    this.ready = false; // whether it has read what stands before
    /** @type {Voice | null} */
    this.source = null; // whose take it forks once that is ready
    this.finished = []; // notes that have not been told
    this.told = model.weightsOf(told);
    /** @type {Take | null} */
    this.take = new Take(model);
    for (const token of tokens.slice(0, before)) this.take.take(token);
    this.take.silentUntil = this.from;
    this.take.session.told = this.told;
  }

  /** A voice that goes on from this one's present moment with a seed of its own. */
  fork(seed, tell) {
    const twin = Object.assign(Object.create(Voice.prototype), this);
    Object.assign(twin, {tell, random: new Random(seed), finished: [...this.finished], toldStep: -1});
    return Object.assign(twin, this.ready ? {take: this.take.fork()} : {source: this, take: null});
  }

  close() {
    this.ended = true;
    this.take?.close();
  }

  /** Has what is read from now on read with other weights of the labels. */
  steer(told) {
    this.told = told;
    if (this.take) this.take.session.told = told;
  }

  /** Goes on from where its source has read to; whether it could. */
  follow() {
    const {source} = this;
    if (source.ended) throw new Error('the stream to go on from was closed');
    if (!source.ready) return LATER;
    Object.assign(this, {take: source.take.fork(), ready: true, source: null});
    this.steer(this.told);
    return NOW;
  }

  /** A chunk of what stands before, or one event; in how many seconds there is more to do. */
  async turn() {
    if (this.source) return this.follow();
    const {take} = this;
    if (this.ready && this.finalStep >= this.until * STEPS_PER_S) {
      this.tellNotes();
      return LATER;
    }
    if (take.unread.length) {
      this.ready = !await take.read() || this.ready;
      return NOW;
    }
    const {token, finished} = take.play(this.sampling, this.random);
    this.finished.push(...finished.filter(({start}) => stepOf(start) >= this.from));
    if (token === END) {
      this.tellNotes();
      this.tell({op: 'end', upTo: take.decoder.seconds});
      this.close();
    } else if (this.finished.length && performance.now() > this.toldAt + TELL_MS) {
      this.tellNotes();
    }
    return NOW;
  }

  /** The keys struck since `from` that sound. */
  get open() {
    return [...this.take.decoder.open].filter(([, struck]) => struck.step >= this.from);
  }

  /** Every note that starts before is over. */
  get finalStep() {
    return Math.min(this.take.step, ...this.open.map(([, struck]) => struck.step));
  }

  tellNotes() {
    const {step} = this.take;
    if (this.finished.length || step > this.toldStep) {
      const sounding = this.open.filter(([, struck]) => struck.step < step)
        .map(([pitch, struck]) => ({pitch, velocity: struck.velocity, start: struck.step / STEPS_PER_S, end: step / STEPS_PER_S}));
      this.tell({op: 'notes', notes: this.finished, sounding, pedals: [], upTo: this.finalStep / STEPS_PER_S});
    }
    [this.finished, this.toldStep, this.toldAt] = [[], step, performance.now()];
  }
}

/**
 * The model at one piano with a person, by the page's clock. It tells `turn` (whose it is, and its number), `key`
 * (before its time, with the number of its turn), `notes` and pedals that are over, and `end`.
 */
class Partner {
  /** @param {Model} model @param {any} asked @param {(message: object) => void} tell */
  constructor(model, {seed, sampling, told, takeover, handback}, tell) {
    Object.assign(this, {model, tell, ended: false, now: 0, number: 0});
    const send = (pitch, velocity, at) => tell({op: 'key', turn: this.number, pitch, velocity, at});
    const options = {random: new Random(seed), sampling: complete(sampling), told: model.weightsOf(told), takeover, handback};
    this.duet = new Duet(model, send, {...options, lead: LEAD_S});
    /** @type {{at: number, message?: number[] | null, agreed?: {takeover: string, handback: string}}[]} */
    this.inbox = [];
  }

  set sampling(sampling) { this.duet.sampling = sampling; }

  steer(told) { this.duet.told = told; }

  close() {
    this.ended = true;
    this.duet.close();
  }

  async turn() {
    await this.model.load(this.model.chunkTokens);
    if (this.ended) return LATER;
    const {duet} = this, {playing} = duet, next = this.inbox.shift();
    this.now = Math.max(this.now, next?.at ?? (performance.timeOrigin + performance.now()) / 1000);
    let wait = NOW;
    if (!next) wait = duet.tick(this.now);
    else if (next.agreed) duet.agree(next.agreed.takeover, next.agreed.handback);
    else if (next.message) duet.obey(this.now, next.message);
    else duet.finish(this.now);
    if (duet.playing !== playing) {
      this.number += Number(duet.playing);
      this.tell({op: 'turn', turn: this.number, playing: duet.playing, at: this.now});
    }
    if (duet.notes.length || duet.pedals.length) {
      const pedals = duet.pedals.map(([start, end]) => ({start, end}));
      this.tell({op: 'notes', notes: duet.notes, pedals});
      [duet.notes, duet.pedals] = [[], []];
    }
    if (next && !next.message && !next.agreed) {
      this.tell({op: 'end'});
      this.close();
    }
    return wait;
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
      return NOW;
    }
    const scored = tokens.length - this.first;
    this.tell({op: 'score', nats: scored > 0 ? this.nats / scored : null});
    this.close();
    return LATER;
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
    /** @type {any} */
    this.timer = 0;
  }

  /** @param {any} message */
  take({op, id, ...content}) {
    const tell = (message) => this.tell({id, ...message});
    const task = this.tasks.get(op === 'fork' ? content.from : id);
    try {
      if (op === 'start') this.tasks.set(id, new Voice(this.model, content, tell));
      else if (op === 'score') this.tasks.set(id, new Score(this.model, content, tell));
      else if (op === 'duet') this.tasks.set(id, new Partner(this.model, content, tell));
      else if (op === 'agree') task?.inbox.push({at: -Infinity, agreed: content}); // behind keys that wait
      else if (op === 'midi' || op === 'finish') task?.inbox.push({at: content.at, message: content.message ?? null});
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
    clearTimeout(this.timer);
    let wait = NOW;
    for (let since = performance.now(); this.woken || wait <= NOW;) {
      this.woken = false;
      wait = LATER;
      for (const [id, task] of [...this.tasks]) {
        if (this.tasks.get(id) !== task) continue; // closed meanwhile
        try {
          wait = Math.min(wait, await task.turn());
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
    if (wait < LATER) this.timer = setTimeout(() => this.play(), wait * 1000);
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
