// The worker in which the local engine plays, so that the page stays free.

import {openModel} from './session.js';
import {Player} from './voices.js';

/** @type {Promise<Player>} */
let player;

self.onmessage = async ({data}) => {
  try {
    player ??= start(data.base);
    (await player).take(data);
  } catch (error) {
    self.postMessage({op: 'failed', message: error.message});
  }
};

async function start(base) {
  const model = await openModel((file) => read(new URL(file.endsWith('.wasm.gz') ? `onnxruntime/${file}` : file,
    file.endsWith('.wasm.gz') ? import.meta.url : base)));
  self.postMessage({op: 'hello', about: model.about});
  return new Player(model, (message) => self.postMessage(message));
}

async function read(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} cannot be loaded (${answer.status}); try again, or put the page up anew`);
  return new Uint8Array(await answer.arrayBuffer());
}
