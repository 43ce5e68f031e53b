// The remote engine: the Python player of the server that gave this page, over one WebSocket. See `stream.js`.

import {Engine} from './stream.js';

const row = ({start, end, pitch, velocity}) => [start, end, pitch, velocity];
const span = ({start, end}) => [start, end];

/**
 * Connects to the server. `onLost(reason)` is called when the connection is lost later.
 * @param {{token?: string, onLost?: (reason: string) => void}} options
 * @returns {Promise<Engine>}
 */
export function open({token = '', onLost = () => {}} = {}) {
  const address = new URL('session', location.href);
  address.protocol = address.protocol.replace('http', 'ws');
  address.search = token ? `?token=${encodeURIComponent(token)}` : '';
  address.hash = '';
  const socket = new WebSocket(address);
  const post = ({notes, pedals, ...message}) => {
    if (socket.readyState !== WebSocket.OPEN) return;
    socket.send(JSON.stringify({...message, notes: notes?.map(row), pedals: pedals?.map(span)}));
  };
  const close = () => {
    socket.onclose = null;
    socket.close();
  };
  return new Promise((resolve, reject) => {
    /** @type {Engine | undefined} */
    let engine;
    socket.onmessage = ({data}) => {
      const message = JSON.parse(data);
      if (message.op === 'notes') {
        const {notes, sounding = [], pedals = []} = message;
        [message.notes, message.sounding] = [notes, sounding].map((rows) => (
          rows.map(([start, end, pitch, velocity, byModel]) => ({pitch, velocity, start, end, byModel}))));
        message.pedals = pedals.map(([start, end]) => ({start, end}));
      }
      if (engine) return engine.take(message);
      if (message.op !== 'hello') return reject(new Error(message.message));
      resolve(engine = new Engine(message.about, post, close));
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
