// A model in the browser: its weights, widened when they are loaded, and sessions in memory of fixed size that read tokens
// and say what may follow. As `ritornello.engines.runtime`, with onnxruntime in WebAssembly.

import {FINGERPRINT, N_EVENTS} from './codec.js';
import {HINT_COLUMNS, MotifMemory} from './motifs.js';
import {openRuntime} from './runtime.js';

const ROTARY_BASE = 10_000;
const WASM = 'ort-wasm-simd-threaded.wasm.gz';
const FORMAT = 1;
const STRENGTH = {density: 1.5, loudness: 1.5}; // by how much these weigh more than in training: see `codec.steering`

/**
 * Loads a model that `ritornello export --web` wrote.
 * @param {(file: string) => Promise<Uint8Array>} read gives files of the model's folder, and `WASM`
 */
export async function openModel(read) {
  const manifest = JSON.parse(new TextDecoder().decode(await read('web.json')));
  if (manifest.format !== FORMAT || manifest.vocabulary !== FINGERPRINT) {
    throw new Error('this model is of another version than the page; export both again');
  }
  const names = [WASM, manifest.weights.file, ...Object.values(manifest.graphs)];
  const [wasm, packed, ...graphs] = await Promise.all(names.map(async (name) => inflated(await read(name))));
  const runtime = await openRuntime(wasm);
  const model = new Model(runtime, manifest, graphs, widened(packed, manifest.weights));
  await model.load(1);
  return model;
}

/** The content of a gzip file, which some servers have the browser unpack already. */
async function inflated(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * The weights as the graphs take them: float32, matrices by columns, each tensor at its place. In the file a matrix
 * (N, K) is bytes (N, K / block, block) with scales (N, K / block): weight = (byte - 128) x scale.
 */
function widened(packed, {bytes, places}) {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const headerBytes = view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(packed.subarray(8, 8 + headerBytes)));
  const tensor = (name) => packed.slice(...header[name].data_offsets.map((place) => 8 + headerBytes + place));
  const wide = new Uint8Array(bytes);
  for (const [name, [place]] of Object.entries(places)) {
    if (header[name]) {
      wide.set(tensor(name), place);
      continue;
    }
    const [outputs, blocks, block] = header[`${name}.int8`].shape;
    const values = tensor(`${name}.int8`), scales = new Float32Array(tensor(`${name}.scale`).buffer);
    const matrix = new Float32Array(outputs * blocks * block);
    for (let n = 0, from = 0; n < outputs; n++) {
      for (let k = 0; k < blocks * block; k++, from++) {
        matrix[k * outputs + n] = (values[from] - 128) * scales[Math.floor(from / block)];
      }
    }
    wide.set(new Uint8Array(matrix.buffer), place);
  }
  return wide;
}

export class Model {
  constructor(runtime, manifest, graphs, weights) {
    this.runtime = runtime;
    this.weights = weights;
    this.config = manifest.config;
    this.file = manifest.weights.name;
    this.graphs = new Map(Object.keys(manifest.graphs).map((tokens, i) => [Number(tokens), graphs[i]]));
    this.chunkTokens = Math.max(...this.graphs.keys());
    this.bound = new Map(); // by tokens: a graph that is loaded, with its values that belong to no session
    this.about = manifest.about;
  }

  /**
   * The weight of each of the model's labels.
   * @param {Object<string, number>} told
   * @throws {Error} for a label that the model does not know, or a weight that is none
   */
  weightsOf(told = {}) {
    const {labels} = this.about, weights = new Float32Array(labels.length);
    for (const [label, weight] of Object.entries(told)) {
      if (!labels.includes(label)) throw new Error(`this model cannot be told "${label}"`);
      if (!(weight >= 0 && weight <= 1)) throw new Error(`the weight of ${label} is ${weight}; it must lie between 0 and 1`);
      weights[labels.indexOf(label)] = (STRENGTH[label.split('=')[0]] ?? 1) * weight;
    }
    return weights;
  }

  /** The graph that reads so many tokens at once, loaded when it is needed first. */
  async load(tokens) {
    if (this.bound.has(tokens)) return;
    const graph = await this.runtime.graph(this.graphs.get(tokens), this.file, this.weights);
    const values = {};
    for (const described of [...graph.inputs, ...graph.outputs]) {
      if (!isMemory(described.name)) values[described.name] = this.runtime.value(described);
    }
    this.bound.set(tokens, {graph, values});
  }

  /** A session at the start of a piece. Give it back by `close`. */
  begin() {
    return new Session(this);
  }
}

const isMemory = (name) => /^(keys|values)\./.test(name);

/** One performance's memories: rings of keys and values, and the motif memory. */
class Session {
  /** @param {Model} model */
  constructor(model) {
    const {config, runtime} = model;
    this.model = model;
    this.position = 0;
    this.memories = {};
    const {graph} = model.bound.get(1);
    for (const described of graph.inputs) {
      if (isMemory(described.name)) this.memories[described.name] = runtime.value(described);
    }
    this.held = Object.fromEntries( // by horizon: the position of the token in each slot
      config.horizons.map((horizon) => [horizon, new Int32Array(horizon + config.segmentTokens).fill(-1)]));
    this.told = model.weightsOf(); // of the labels, from the next token on; replaced, never changed
    this.motifs = config.motifNotes ? new MotifMemory(config.motifNotes, config.recalls) : null;
  }

  /** Another at the same moment. */
  fork() {
    const twin = new Session(this.model);
    twin.position = this.position;
    for (const [name, {numbers}] of Object.entries(this.memories)) twin.memories[name].numbers.set(numbers);
    for (const [horizon, held] of Object.entries(this.held)) twin.held[horizon].set(held);
    twin.told = this.told;
    twin.motifs = this.motifs?.fork() ?? null;
    return twin;
  }

  close() {
    for (const memory of Object.values(this.memories)) memory.free();
    this.memories = {};
  }

  /**
   * How many of so many tokens are read at once: a chunk costs about as much as a third of as many steps, and never
   * crosses a segment's border.
   */
  next(tokens) {
    const {segmentTokens} = this.model.config, {chunkTokens} = this.model;
    const length = Math.min(tokens, segmentTokens - (this.position % segmentTokens), chunkTokens);
    return length < chunkTokens / 3 ? 1 : length;
  }

  /**
   * Takes one token, or as many as `next` says, and gives the logits (N_EVENTS each) of the event after each.
   * @param {number[]} tokens
   * @returns {Promise<Float32Array>}
   */
  async read(tokens) {
    if (tokens.length > 1) await this.model.load(this.model.chunkTokens);
    return this.readNow(tokens);
  }

  /** The same, at once: what reads so many tokens must be loaded. */
  readNow(tokens) {
    const size = tokens.length > 1 ? this.model.chunkTokens : 1;
    return this.run(this.model.bound.get(size), tokens, size);
  }

  run({graph, values}, tokens, size) {
    const {config} = this.model;
    tokens.forEach((token, i) => {
      values.tokens.numbers[2 * i] = token;
      this.motifs?.advance(token);
      this.motifs?.hint().forEach((id, column) => { values.hints.numbers[2 * (i * HINT_COLUMNS + column)] = id; });
    });
    values.labels?.numbers.set(this.told);
    const half = config.headSize / 2;
    for (let i = 0; i < size * half; i++) {
      const angle = (this.position + Math.floor(i / half)) * ROTARY_BASE ** (-(i % half) / half);
      values.cos.numbers[i] = Math.cos(angle);
      values.sin.numbers[i] = Math.sin(angle);
    }
    for (const [horizon, held] of Object.entries(this.held)) this.see(Number(horizon), held, values[`seen.${horizon}`]);
    graph.run({...values, ...this.memories});
    this.write(values, tokens.length, size);
    return values.logits.numbers.slice(0, tokens.length * N_EVENTS);
  }

  /** The visibility rule: 0 for the slots that a query sees, minus infinity for the others, row after row. */
  see(horizon, held, {numbers}) {
    const {segmentTokens, rule} = this.model.config, rows = numbers.length / held.length;
    for (let row = 0, at = 0; row < rows; row++) {
      const query = this.position + row;
      const start = query - (query % segmentTokens);
      const first = Math.max(0, rule === 'segment' ? start - horizon : Math.min(start, query - horizon));
      for (const key of held) numbers[at++] = key >= first ? 0 : -Infinity;
    }
  }

  /** Puts new keys (L, H, D, T) and values (L, H, T, D) into their slots: token p in slot p mod (horizon + segment). */
  write(values, length, size) {
    const {config} = this.model, {heads, headSize} = config, ofLayer = heads * headSize * size;
    const [newKeys, newValues] = [values.new_keys.numbers, values.new_values.numbers];
    config.horizons.forEach((horizon, layer) => {
      const slots = horizon + config.segmentTokens;
      const [keys, held] = [this.memories[`keys.${layer}`].numbers, this.memories[`values.${layer}`].numbers];
      for (let t = 0; t < length; t++) {
        const slot = (this.position + t) % slots;
        for (let row = 0; row < heads * headSize; row++) keys[row * slots + slot] = newKeys[layer * ofLayer + row * size + t];
        for (let head = 0; head < heads; head++) {
          const from = layer * ofLayer + (head * size + t) * headSize;
          held.set(newValues.subarray(from, from + headSize), (head * slots + slot) * headSize);
        }
      }
    });
    for (const held of Object.values(this.held)) {
      for (let t = 0; t < length; t++) held[(this.position + t) % held.length] = this.position + t;
    }
    this.position += length;
  }
}
