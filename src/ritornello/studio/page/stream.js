// What an engine is, whichever it is: `remote.js` and `engine/local.js` open one.
//
//   engine.about   -> {name, licence, parameters, memoryBytes, stateBytes, labels}
//   const stream = await engine.start({notes, pedals, seed, sampling, told, from})
//       notes: [{pitch, velocity, start, end}] in seconds, sorted by start: the prompt, which may be empty;
//       pedals: [{start, end}]; seed: an integer; sampling: {temperature, topP, minP, returns};
//       told: what the music is to be, {label: weight from 0 to 1}, of the labels in `about` (none: it cannot be told).
//       Music goes on from the prompt's last event, or from the time `from`, where the prompt is cut.
//   stream.on('notes', ({notes, sounding, pedals, upTo}) => ...)   notes that have finished (start >= from), and those that
//       sound still, as if they were let go now; everything that starts before `upTo` seconds is final then
//   stream.on('end', ({upTo}) => ...)                    the model has ended the piece
//   stream.on('error', (error) => ...)
//   stream.advance(untilSeconds)     credit: it plays until what starts before is final, then waits
//   stream.setSampling(sampling)     acts on what is played next
//   stream.setTold(told)             acts on what is played next
//   stream.fork(seed) -> stream      an independent stream that goes on from this one's present moment
//   stream.close()
//   const stream = await engine.duet({seed, sampling, told, takeover, handback})
//       the model at one piano with a person; times are of `now`
//   stream.hear(message)             a MIDI message of the person's
//   stream.agree(takeover, handback) has turns change otherwise from now on
//   stream.on('turn', ({turn, playing, at}) => ...)      whose turn it is; the model's have numbers
//   stream.on('key', ({turn, pitch, velocity, at}) => ...)   the model's, a little before its time; velocity 0 lets it
//       go. What the turn's end leaves to come is not to be played.
//   stream.on('notes', ({notes, pedals}) => ...)         what is over, from both; seconds from the person's first key
//   stream.finish()                  ends it: the last `notes`, then `end`
//   const nats = await engine.score({notes, pedals, from, to})
//       mean nats/token of the music between two times, given what stands before

/** @typedef {import('./music.js').Note} Note */
/** @typedef {import('./music.js').Span} Span */
/** @typedef {import('./engine/sampling.js').Sampling} Sampling */
/** @typedef {{notes?: Note[], pedals?: Span[], seed?: number, sampling?: Sampling, told?: Object<string, number>,
 *   from?: number}} Asked */

/** Seconds of a clock that pages and their workers share. */
export const now = () => (performance.timeOrigin + performance.now()) / 1000;

export class Engine {
  /** @param {object} about @param {(message: object) => void} post @param {() => void} close */
  constructor(about, post, close) {
    Object.assign(this, {about, post, close});
    this.streams = new Map();
    this.scores = new Map();
    this.last = 0;
  }

  /** @param {Asked} asked @returns {Promise<Stream>} */
  async start({notes = [], pedals = [], seed = 0, sampling = {}, told = {}, from}) {
    return this.opened({op: 'start', notes, pedals, seed, sampling, told, from});
  }

  /** @param {Asked & {takeover?: string, handback?: string}} asked @returns {Promise<Stream>} */
  async duet({seed = 0, sampling = {}, told = {}, takeover, handback}) {
    return this.opened({op: 'duet', seed, sampling, told, takeover, handback});
  }

  /** @param {{notes: Note[], pedals?: Span[], from: number, to: number}} asked @returns {Promise<number | null>} */
  score({notes, pedals = [], from, to}) {
    const id = ++this.last;
    this.post({op: 'score', id, notes, pedals, from, to});
    return new Promise((resolve, reject) => this.scores.set(id, {resolve, reject}));
  }

  opened(message) {
    const stream = new Stream(this, ++this.last);
    this.streams.set(stream.id, stream);
    stream.post(message);
    return stream;
  }

  /** Takes what the player says. */
  take({id, op, ...content}) {
    const told = op === 'error' ? new Error(content.message) : content;
    const score = this.scores.get(id);
    this.scores.delete(id);
    if (!score) this.streams.get(id)?.tell(op, told);
    else if (op === 'score') score.resolve(content.nats);
    else score.reject(told);
  }

  /** The player is gone. */
  lose(reason) {
    for (const {reject} of this.scores.values()) reject(new Error(reason));
    for (const stream of this.streams.values()) stream.tell('error', new Error(reason));
    this.streams.clear();
    this.scores.clear();
  }
}

export class Stream {
  /** @param {Engine} engine @param {number} id */
  constructor(engine, id) {
    this.engine = engine;
    this.id = id;
    /** @type {Object<string, Function>} */
    this.listeners = {};
    this.waiting = [];
    this.credit = 0;
  }

  on(event, listener) {
    this.listeners[event] = listener;
    const early = this.waiting.filter(([name]) => name === event);
    this.waiting = this.waiting.filter(([name]) => name !== event);
    for (const [, content] of early) listener(content);
  }

  tell(event, content) {
    if (this.listeners[event]) this.listeners[event](content);
    else this.waiting.push([event, content]);
  }

  post(message) {
    this.engine.post({...message, id: this.id});
  }

  advance(until) {
    if (until <= this.credit) return;
    this.credit = until;
    this.post({op: 'advance', until});
  }

  setSampling(sampling) { this.post({op: 'sampling', sampling}); }

  setTold(told) { this.post({op: 'told', told}); }

  fork(seed) { return this.engine.opened({op: 'fork', from: this.id, seed}); }

  /** @param {number[]} message */
  hear(message) { this.post({op: 'midi', at: now(), message}); }

  /** @param {string} takeover @param {string} handback */
  agree(takeover, handback) { this.post({op: 'agree', takeover, handback}); }

  finish() { this.post({op: 'finish', at: now()}); }

  close() {
    this.engine.streams.delete(this.id);
    this.post({op: 'close'});
  }
}
