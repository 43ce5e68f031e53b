// A session: the piece in its present form, everything that undo and redo lead to, and where it is kept.

import {Emitter} from './emitter.js';
import {NOTHING, insert, joined} from './music.js';

const FORMAT = 'ritornello-session/1';
const MOST_SAVED = 200; // states of the past that a file holds
const MOST_SESSIONS = 12; // that the browser keeps
const LEFT = 'left '; // before the number of a session whose page was left
export const SAMPLING = Object.freeze({temperature: 0.95, topP: 0.98, minP: 0, returns: 0.75});

/** Fires `change` when the piece is another one, `growth` (detail: notes) when notes were added to it. */
export class Session extends Emitter {
  constructor() {
    super();
    this.begin(0);
  }

  /** Forgets everything and begins an empty piece. */
  begin(seed, piece = NOTHING, {sampling = SAMPLING, told = {}} = {}) {
    this.id = Date.now();
    this.seed = seed;
    this.sampling = {...sampling};
    this.told = {...told}; // what the music is to be: labels of the model's, and their weights
    this.past = [];
    this.future = [];
    this.label = '';
    this.piece = copy(piece);
    this.sounding = [];
    this.changed();
  }

  /** Makes `piece` the present one; undo leads back. */
  change(label, piece) {
    this.past.push({label: this.label, piece: this.piece});
    this.future = [];
    this.label = label;
    this.piece = copy(piece);
    this.changed();
  }

  /** Adds what was played to the present piece, no step of its own for undo; `sounding`: what is not over, let go now. */
  grow(notes, sounding = []) {
    insert(this.piece.notes, notes);
    this.sounding = sounding;
    this.emit('growth', notes);
  }

  /** What sounds still is let go where the music is. */
  settle() {
    if (this.sounding.length) this.grow(this.sounding);
  }

  /** The present piece as it would be if it ended now. */
  get whole() {
    const notes = [...this.piece.notes];
    insert(notes, this.sounding);
    return {...this.piece, notes};
  }

  undo() { return this.step(this.past, this.future); }
  redo() { return this.step(this.future, this.past); }

  step(from, to) {
    const state = from.pop();
    if (!state) return '';
    const label = from === this.past ? this.label : state.label;
    to.push({label: this.label, piece: this.piece});
    ({label: this.label, piece: this.piece} = state);
    this.changed();
    return label;
  }

  /** Keeps a span of time as it is, or, where all of it is kept, no longer. */
  keep({start, end}) {
    const all = this.piece.kept.some((span) => span.start <= start && span.end >= end);
    const kept = all
      ? this.piece.kept.flatMap((span) => [{start: span.start, end: Math.min(span.end, start)},
        {start: Math.max(span.start, end), end: span.end}]).filter((span) => span.end > span.start)
      : joined([...this.piece.kept, {start, end}]);
    this.change(all ? 'let go' : 'kept', {...this.piece, kept});
    return !all;
  }

  changed() {
    this.emit('change');
  }

  /** Everything as one text: notes are written once, however many states hold them. */
  toText() {
    const numbers = new Map();
    const number = (note) => numbers.get(note) ?? (numbers.set(note, numbers.size), numbers.size - 1);
    const packed = ({label, piece}) => ({label, ...piece, notes: piece.notes.map(number)});
    const states = {
      past: this.past.slice(-MOST_SAVED).map(packed),
      present: packed({label: this.label, piece: this.whole}),
      future: this.future.slice(-MOST_SAVED).map(packed),
    };
    const notes = [...numbers.keys()].map((n) => [n.start, n.end, n.pitch, n.velocity, n.given ? 1 : 0]);
    return JSON.stringify({format: FORMAT, id: this.id, seed: this.seed, sampling: this.sampling, told: this.told, notes, ...states});
  }

  /** Takes what `toText` gave. Throws an Error whose message can be shown. */
  fromText(text) {
    let read;
    try {
      const saved = JSON.parse(text);
      if (saved.format !== FORMAT) throw new Error('format');
      const notes = saved.notes.map(checkedNote);
      const unpacked = ({label, title, notes: numbers, pedals, kept}) => ({
        label: String(label),
        piece: {
          title: String(title), pedals: pedals.map(checkedSpan), kept: kept.map(checkedSpan),
          notes: numbers.map((n) => notes[n] ?? fail()),
        },
      });
      read = {
        id: Number(saved.id), sounding: [], seed: Number(saved.seed), sampling: {...SAMPLING, ...saved.sampling},
        told: checkedTold(Object.entries(saved.told ?? {})),
        past: saved.past.map(unpacked), future: saved.future.map(unpacked), ...unpacked(saved.present),
      };
    } catch {
      throw new Error('this is no session of the studio, or a damaged one');
    }
    Object.assign(this, read);
    this.changed();
  }
}

const copy = (piece) => ({...NOTHING, ...piece, notes: [...piece.notes]});
const fail = () => { throw new Error('damaged'); };
const within = (value, low, high) => (value >= low && value <= high ? Number(value) : fail());

function checkedNote([start, end, pitch, velocity, given]) {
  return Object.freeze({
    pitch: within(pitch, 0, 127), velocity: within(velocity, 1, 127), start: within(start, 0, 1e6),
    end: within(end, start, 1e6), ...(given ? {given: true} : {}),
  });
}

const checkedTold = (entries) => Object.fromEntries(entries.map(([label, weight]) => [label, within(weight, 0, 1)]));
const checkedSpan = ({start, end}) => ({start: within(start, 0, 1e6), end: within(end, start, 1e6)});

// ---- in the browser ----

/** @type {Promise<IDBDatabase> | undefined} */
let database; // stays open: a page that is left has no time to open it

function opened() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open('ritornello', 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore('sessions', {keyPath: 'id'});
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

const store = async (mode) => (await (database ??= opened())).transaction('sessions', mode).objectStore('sessions');

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

const isEmpty = ({piece, past}) => !piece.notes.length && !past.length;
const contentOf = (session) => {
  const {id, seed, piece: {title, notes}} = session;
  return {id, seed, title, notes: notes.length, saved: Date.now(), text: session.toText()};
};

/** Saves a session in the browser, and forgets the oldest beyond a dozen. */
export async function save(session) {
  if (isEmpty(session)) return;
  const content = contentOf(session);
  await done((await store('readwrite')).put(content));
  localStorage.removeItem(LEFT + content.id);
  const keys = await done((await store('readonly')).getAllKeys());
  if (keys.length > MOST_SESSIONS) {
    const all = (await saved()).slice(MOST_SESSIONS);
    const sessions = await store('readwrite');
    for (const {id: old} of all) sessions.delete(old);
  }
}

/** The same at once, for a page that is left: it has no time to wait for its database. `saved` puts it there. */
export function leave(session) {
  if (isEmpty(session)) return;
  try {
    localStorage.setItem(LEFT + session.id, JSON.stringify(contentOf(session)));
  } catch { // too large
    save(session).catch(() => {});
  }
}

/** The saved sessions, the latest first. */
export async function saved() {
  for (const name of Object.keys(localStorage).filter((key) => key.startsWith(LEFT))) {
    await done((await store('readwrite')).put(JSON.parse(localStorage.getItem(name))));
    localStorage.removeItem(name);
  }
  const all = await done((await store('readonly')).getAll());
  return all.sort((a, b) => b.saved - a.saved);
}
