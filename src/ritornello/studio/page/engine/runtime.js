// onnxruntime in WebAssembly, called as its own JavaScript calls it (`lib/wasm/wasm-core-impl.ts` of onnxruntime-web 1.30.0),
// but with inputs and outputs that stay where they are in its memory: the package copies all memories of a model into it
// for every token, which takes longer than the token.

const FLOAT = 1, INT64 = 7; // onnx's numbers for types
const CPU = 1;
const ALL_OPTIMISATIONS = 99, FATAL = 4;

/** Loads onnxruntime. @param {Uint8Array} wasmBinary */
export async function openRuntime(wasmBinary) {
  const {default: factory} = await import('./onnxruntime/ort-wasm-simd-threaded.js');
  const wasm = await factory({numThreads: 1, wasmBinary, locateFile: (name) => name});
  return new Runtime(wasm);
}

class Runtime {
  constructor(wasm) {
    this.wasm = wasm;
    this.check(wasm._OrtInit(1, FATAL) === 0);
  }

  /** A graph; `weights` is the content of the file `name`, which it says that its weights are in. */
  async graph(content, name, weights) {
    const {wasm} = this;
    const options = wasm._OrtCreateSessionOptions(ALL_OPTIMISATIONS, true, true, 0, false, 0, 0, FATAL, 0, 0);
    const place = this.allocate(content.length);
    wasm.HEAPU8.set(content, place);
    wasm.mountExternalData(name, weights);
    try {
      const session = await wasm._OrtCreateSession(place, content.length, options);
      this.check(session);
      return new Graph(this, session);
    } finally {
      wasm.unmountExternalData();
      wasm._free(place);
      wasm._OrtReleaseSessionOptions(options);
    }
  }

  /** The value of an input or output, all zero, until `free`. Numbers of int64 are pairs of words, the lower first. */
  value({type, shape}) {
    const {wasm} = this, count = shape.reduce((a, b) => a * b, 1);
    const bytes = count * (type === INT64 ? 8 : 4);
    const place = this.allocate(bytes);
    const numbers = new (type === FLOAT ? Float32Array : Int32Array)(wasm.HEAPU8.buffer, place, bytes / 4).fill(0);
    const dims = this.words(shape);
    const handle = wasm._OrtCreateTensor(type, place, bytes, dims, shape.length, CPU);
    wasm._free(dims);
    this.check(handle);
    const free = () => {
      wasm._OrtReleaseTensor(handle);
      wasm._free(place);
    };
    return {handle, numbers, free};
  }

  allocate(bytes) {
    const place = this.wasm._malloc(bytes);
    if (!place) throw new Error('this browser has no memory left for the player; close other pages, or other ways on');
    return place;
  }

  words(values) {
    const place = this.allocate(4 * values.length);
    this.wasm.HEAPU32.set(values, place / 4);
    return place;
  }

  check(well) {
    if (well) return;
    const {wasm} = this, place = this.allocate(8);
    wasm._OrtGetLastError(place, place + 4);
    const said = wasm.UTF8ToString(wasm.HEAPU32[place / 4 + 1]);
    wasm._free(place);
    throw new Error(`onnxruntime: ${said.split('\n')[0].slice(0, 200)}`);
  }
}

class Graph {
  constructor(runtime, session) {
    const {wasm} = runtime, place = runtime.allocate(8);
    this.runtime = runtime;
    this.session = session;
    wasm._OrtGetInputOutputCount(session, place, place + 4);
    const [inputs, outputs] = wasm.HEAPU32.slice(place / 4, place / 4 + 2);
    const described = Array.from({length: inputs + outputs}, (_, i) => {
      wasm._OrtGetInputOutputMetadata(session, i, place, place + 4);
      const [name, about] = wasm.HEAPU32.slice(place / 4, place / 4 + 2);
      const [type, rank] = wasm.HEAPU32.slice(about / 4, about / 4 + 2);
      const shape = Array.from(wasm.HEAPU32.slice(about / 4 + 2 + rank, about / 4 + 2 + 2 * rank));
      wasm._OrtFree(about);
      return {name: wasm.UTF8ToString(name), type, shape, pointer: name};
    });
    wasm._free(place);
    this.inputs = described.slice(0, inputs);
    this.outputs = described.slice(inputs);
    const names = (values) => runtime.words(values.map(({pointer}) => pointer));
    this.inputNames = names(this.inputs);
    this.outputNames = names(this.outputs);
    this.inputHandles = runtime.words(this.inputs.map(() => 0));
    this.outputHandles = runtime.words(this.outputs.map(() => 0));
  }

  /** Computes the outputs from the inputs, both by name, in place. */
  run(values) {
    const {wasm} = this.runtime;
    this.inputs.forEach(({name}, i) => { wasm.HEAPU32[this.inputHandles / 4 + i] = values[name].handle; });
    this.outputs.forEach(({name}, i) => { wasm.HEAPU32[this.outputHandles / 4 + i] = values[name].handle; });
    this.runtime.check(0 === wasm._OrtRun(
      this.session, this.inputNames, this.inputHandles, this.inputs.length,
      this.outputNames, this.outputs.length, this.outputHandles, 0));
  }
}
