// The local engine: the model plays in this browser, in a worker, without a server. See `../stream.js`.

import {Engine} from '../stream.js';

/**
 * Loads the model. `onLost(reason)` is called if the worker breaks down later.
 * @param {{base?: string | URL, onLost?: (reason: string) => void}} options `base`: the address of the model's folder
 * @returns {Promise<Engine>}
 */
export function open({base = new URL('../model/', import.meta.url), onLost = () => {}} = {}) {
  const worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
  return new Promise((resolve, reject) => {
    /** @type {Engine | undefined} */
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
      else resolve(engine = new Engine(data.about, (message) => worker.postMessage(message), () => worker.terminate()));
    };
    worker.postMessage({op: 'open', base: String(new URL(base, location.href))});
  });
}
