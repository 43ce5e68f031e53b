// The remote engine: the Python player of the server that gave this page, over one WebSocket.
//
// What an engine is, whichever it is (the local one in `engine/` offers the same):
//
//   const engine = await open(options)
//   engine.about   -> {name, licence, parameters, memoryBytes, stateBytes, labels}
//   const stream = await engine.start({notes, pedals, seed, sampling, told, from})
//       notes: [{pitch, velocity, start, end}] in seconds, sorted by start: the prompt, which may be empty;
//       pedals: [{start, end}]; seed: an integer; sampling: {temperature, topP, minP, topK, returns};
//       told: what the music is to be, {label: weight from 0 to 1}, of the labels in `about` (none: it cannot be told).
//       Music goes on from the prompt's last event, or from the time `from`, where the prompt is cut.
//   stream.on('notes', ({notes, pedals, upTo}) => ...)   notes that have finished (start >= from);
//       everything that starts before `upTo` seconds is final then
//   stream.on('end', ({upTo}) => ...)                    the model has ended the piece
//   stream.on('error', (error) => ...)
//   stream.advance(untilSeconds)     credit: it plays until its music reaches this time, then waits
//   stream.setSampling(sampling)     acts on what is played next
//   stream.setTold(told)             acts on what is played next
//   stream.fork(seed) -> stream      an independent stream that goes on from this one's present moment
//   stream.close()
//   const nats = await engine.score({notes, pedals, from, to})
//       mean nats/token of the music between two times, given what stands before

/** @typedef {import('./music.js').Note} Note */
/** @typedef {import('./music.js').Span} Span */
/** @typedef {{temperature?: number, topP?: number, minP?: number}} Sampling */

const row = ({start, end, pitch, velocity}) => [start, end, pitch, velocity];
const span = ({start, end}) => [start, end];

/**
 * Connects to the server. `onLost(reason)` is called when the connection is lost later.
 * @param {{token?: string, onLost?: (reason: string) => void}} options
 * @returns {Promise<RemoteEngine>}
 */
export function open({token = '', onLost = () => {}} = {}) {
  const address = new URL('session', location.href);
  address.protocol = address.protocol.replace('http', 'ws');
  address.search = token ? `?token=${encodeURIComponent(token)}` : '';
  address.hash = '';
  const socket = new WebSocket(address);
  return new Promise((resolve, reject) => {
    /** @type {RemoteEngine | undefined} */
    let engine;
    socket.onmessage = ({data}) => {
      const message = JSON.parse(data);
      if (engine) return engine.take(message);
      if (message.op !== 'hello') return reject(new Error(message.message));
      engine = new RemoteEngine(socket, message.about);
      resolve(engine);
    };
    socket.onclose = ({reason}) => {
      const why = reason || 'the connection to the player is lost';
      reject(new Error('the player cannot be reached'));
      if (!engine) return;
      onLost(why);
      engine.lose(why);
    };
  });
}

export class RemoteEngine {
  constructor(socket, about) {
    this.about = about;
    this.socket = socket;
    this.streams = new Map();
    this.scores = new Map();
    this.last = 0;
  }

  /**
   * @param {{notes?: Note[], pedals?: Span[], seed?: number, sampling?: Sampling,
   *   told?: Object<string, number>, from?: number}} what
   * @returns {Promise<RemoteStream>}
   */
  async start({notes = [], pedals = [], seed = 0, sampling = {}, told = {}, from}) {
    const stream = this.opened();
    this.send({op: 'start', id: stream.id, notes: notes.map(row), pedals: pedals.map(span), seed, sampling, told, from});
    return stream;
  }

  /** @param {{notes: Note[], pedals?: Span[], from: number, to: number}} what @returns {Promise<number | null>} */
  score({notes, pedals = [], from, to}) {
    const id = ++this.last;
    this.send({op: 'score', id, notes: notes.map(row), pedals: pedals.map(span), from, to});
    return new Promise((resolve, reject) => this.scores.set(id, {resolve, reject}));
  }

  close() {
    this.socket.onclose = null;
    this.socket.close();
  }

  opened() {
    const stream = new RemoteStream(this, ++this.last);
    this.streams.set(stream.id, stream);
    return stream;
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  take({id, op, ...content}) {
    const score = this.scores.get(id);
    if (score) {
      this.scores.delete(id);
      if (op === 'score') score.resolve(content.nats);
      else score.reject(new Error(content.message));
      return;
    }
    const told = op === 'error' ? new Error(content.message) : content;
    if (op === 'notes') {
      content.notes = content.notes.map(([start, end, pitch, velocity]) => ({pitch, velocity, start, end}));
      content.pedals = [];
    }
    this.streams.get(id)?.tell(op, told);
  }

  lose(reason) {
    for (const {reject} of this.scores.values()) reject(new Error(reason));
    for (const stream of this.streams.values()) stream.tell('error', new Error(reason));
    this.streams.clear();
    this.scores.clear();
  }
}

export class RemoteStream {
  /** @param {RemoteEngine} engine @param {number} id */
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

  advance(until) {
    if (until <= this.credit) return;
    this.credit = until;
    this.engine.send({op: 'advance', id: this.id, until});
  }

  setSampling(sampling) {
    this.engine.send({op: 'sampling', id: this.id, sampling});
  }

  setTold(told) {
    this.engine.send({op: 'told', id: this.id, told});
  }

  fork(seed) {
    const stream = this.engine.opened();
    this.engine.send({op: 'fork', id: stream.id, from: this.id, seed});
    return stream;
  }

  close() {
    this.engine.streams.delete(this.id);
    this.engine.send({op: 'close', id: this.id});
  }
}
