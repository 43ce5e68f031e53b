// The local engine: the model plays in this browser, in a worker, without a server. What an engine offers is told in
// `remote.js`, which offers the same.

/** @typedef {import('./midi.js').Note} Note */
/** @typedef {import('./midi.js').Span} Span */
/** @typedef {import('./sampling.js').Sampling} Sampling */

/**
 * Loads the model. `onLost(reason)` is called if the worker breaks down later.
 * @param {{base?: string | URL, onLost?: (reason: string) => void}} options `base`: the address of the model's folder
 * @returns {Promise<LocalEngine>}
 */
export function open({base = new URL('../model/', import.meta.url), onLost = () => {}} = {}) {
  const worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
  return new Promise((resolve, reject) => {
    /** @type {LocalEngine | undefined} */
    let engine;
    const lose = (reason) => {
      worker.terminate();
      reject(new Error(reason));
      engine?.lose(reason);
      if (engine) onLost(reason);
    };
    worker.onerror = ({message}) => lose(message || 'the player in this browser broke down');
    worker.onmessage = ({data}) => {
      if (engine) engine.take(data);
      else if (data.op === 'failed') lose(data.message);
      else resolve(engine = new LocalEngine(worker, data.about));
    };
    worker.postMessage({op: 'open', base: String(new URL(base, location.href))});
  });
}

class LocalEngine {
  /** @param {Worker} worker */
  constructor(worker, about) {
    this.worker = worker;
    this.about = about;
    this.last = 0;
    this.streams = new Map();
    this.scores = new Map();
  }

  /** @param {{notes?: Note[], pedals?: Span[], seed?: number, sampling?: Sampling,
   *   told?: Object<string, number>, from?: number}} options */
  async start({notes = [], pedals = [], seed = 0, sampling = {}, told = {}, from}) {
    return this.opened({op: 'start', notes, pedals, seed, sampling, told, from});
  }

  /** @param {{notes: Note[], pedals?: Span[], from: number, to: number}} options */
  score({notes, pedals = [], from, to}) {
    const id = this.send({op: 'score', notes, pedals, from, to});
    return new Promise((resolve, reject) => this.scores.set(id, {resolve, reject}));
  }

  close() {
    this.worker.terminate();
  }

  opened(message) {
    const id = this.send(message);
    const stream = new LocalStream(this, id);
    this.streams.set(id, stream);
    return stream;
  }

  send(message) {
    const id = message.id ?? ++this.last;
    this.worker.postMessage({...message, id});
    return id;
  }

  take({id, op, ...content}) {
    const told = op === 'error' ? new Error(content.message) : content;
    const score = this.scores.get(id);
    this.scores.delete(id);
    if (!score) this.streams.get(id)?.tell(op, told);
    else if (op === 'score') score.resolve(content.nats);
    else score.reject(told);
  }

  lose(reason) {
    for (const {reject} of this.scores.values()) reject(new Error(reason));
    for (const stream of this.streams.values()) stream.tell('error', new Error(reason));
  }
}

class LocalStream {
  constructor(engine, id) {
    this.engine = engine;
    this.id = id;
    this.listeners = {};
    this.waiting = [];
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

  advance(until) {
    this.engine.send({op: 'advance', id: this.id, until});
  }

  setSampling(sampling) {
    this.engine.send({op: 'sampling', id: this.id, sampling});
  }

  setTold(told) {
    this.engine.send({op: 'told', id: this.id, told});
  }

  fork(seed) {
    return this.engine.opened({op: 'fork', of: this.id, seed});
  }

  close() {
    this.engine.streams.delete(this.id);
    this.engine.send({op: 'close', id: this.id});
  }
}
