// MIDI files to notes and back, as `ritornello.midi` reads and writes them: nothing that a file holds is lost, what is
// wrong in it is mended where no note is lost by it, and told.

import {merged} from './notes.js';

/**
 * @typedef {{pitch: number, velocity: number, start: number, end: number}} Note  Times in seconds, pedal not applied.
 * @typedef {{start: number, end: number}} Span  Of the sustain pedal, in seconds.
 * @typedef {{notes: Note[], pedals: Span[], title: string, mended: Object<string, number>}} Piece
 * @typedef {{end: number, closed: boolean, ticks: number, messages: number[], tempos: number[], title: string,
 *   high: number, timeless: number}} Part  Of a track: its messages as (tick, status, first, second) in one row.
 */

export const MAX_BYTES = 8 * 2 ** 20;
const MAX_SECONDS = 1e6;
const DEFAULT_TEMPO_US = 500_000;
const FRAMES_PER_S = {24: 24, 25: 25, 29: 30_000 / 1_001, 30: 30}; // SMPTE's, by the numbers that stand for them
const SYSTEM_DATA_BYTES = {0xf1: 1, 0xf2: 2, 0xf3: 1};
const DRUM_CHANNEL = 9;
const PEDAL = 64, SOSTENUTO = 66, SOUND_OFF = 120, RESET = 121, NOTES_OFF = 123;
const HIGH_BYTES = 'data bytes above 127, clipped or left out';

/** What is wrong with a file and what to do, without its name. */
export class MidiError extends Error {}

/**
 * The piece that a file of format 0, 1 or 2 holds, perhaps compressed by gzip or in a RIFF file; drums left out.
 * @param {Uint8Array} bytes
 * @returns {Promise<Piece>}
 * @throws {MidiError} for a file that is no MIDI, empty, too large, cut short or damaged
 */
export async function readMidi(bytes) {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) bytes = await inflated(bytes);
  return parse(bytes);
}

async function inflated(bytes) {
  const parts = [];
  let size = 0;
  try {
    const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip')).getReader();
    for (let part = await reader.read(); !part.done && size <= MAX_BYTES; part = await reader.read()) {
      parts.push(part.value);
      size += part.value.length;
    }
    reader.cancel().catch(() => {});
  } catch {
    throw new MidiError('compressed, and cut short or damaged; get an intact copy');
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function parse(data) {
  if (data.length > MAX_BYTES) {
    throw new MidiError(`larger than ${MAX_BYTES >> 20} MiB, the most that is read; cut it into shorter files`);
  }
  /** @type {Object<string, number>} */
  const counts = {};
  const mend = (what, count = 1) => { counts[what] = (counts[what] ?? 0) + Number(count); };
  const {form, division, tracks} = chunks(unwrapped(data), mend);
  const {events, tempos, begins} = inOrder(tracks, form === 2, mend);
  const {notes, spans} = played(events, begins.length, mend);
  const seconds = clock(division, tempos, begins, mend);
  const last = seconds([...notes, ...spans].reduce((latest, [begin, end]) => Math.max(latest, begin, end), 0));
  if (last > MAX_SECONDS) {
    throw new MidiError(
      `lasts ${last.toFixed()} s; at most ${MAX_SECONDS} s can be read: cut it into shorter files`);
  }
  const timed = notes.map(([on, off, pitch, velocity]) => (
    {pitch, velocity, start: seconds(on), end: seconds(off)}));
  timed.sort((a, b) => a.start - b.start || a.pitch - b.pitch || a.end - b.end);
  return {
    notes: timed,
    pedals: merged(spans.map(([down, up]) => ({start: seconds(down), end: seconds(up)}))),
    title: tracks.flat().find((part) => part.title)?.title ?? '',
    mended: Object.fromEntries(Object.entries(counts).filter(([, count]) => count).sort()),
  };
}

// ---- chunks ----

const word = (data, place) => String.fromCharCode(...data.subarray(place, place + 4));
const number = (data, place, size) => data.subarray(place, place + size).reduce((sum, byte) => sum * 256 + byte, 0);
const lengthAt = (data, place) => number(data, place + 4, 4);

function unwrapped(data) {
  if (word(data, 0) !== 'RIFF' || word(data, 8) !== 'RMID') return data;
  const little = (place) => number(data.slice(place, place + 4).reverse(), 0, 4);
  let place = 12;
  while (place < data.length && word(data, place) !== 'data') {
    const size = little(place + 4);
    place += 8 + size + (size % 2);
  }
  return data.subarray(place + 8, place + 8 + little(place + 4));
}

function chunks(data, mend) {
  let {form, announced, division, place} = header(data, mend);
  /** @type {Part[][]} */
  const tracks = [];
  while (place < data.length) {
    const kind = word(data, place), stop = place + 8 + lengthAt(data, place);
    if (kind === 'MThd') {
      mend('bytes of another file behind this one, left out', data.length - place);
      break;
    }
    if (kind === 'MTrk') {
      try {
        const {parts, end} = track(data, place + 8, stop, tracks.length + 1, mend);
        tracks.push(parts);
        place = end;
      } catch (error) {
        if (tracks.length < announced) throw error;
        mend('bytes behind the last track, left out', data.length - place);
        break;
      }
    } else if (beginsChunk(data, place)) { // of a kind that holds no music
      place = stop;
    } else {
      const following = nextOfMidi(data, place);
      if (data.subarray(place, following).some(Boolean)) mend('bytes outside of chunks, left out', following - place);
      place = following;
    }
  }
  if (tracks.length < announced) {
    throw new MidiError(
      `cut short: holds ${tracks.length} of the ${announced} tracks announced; get a complete copy`);
  }
  return {form, division, tracks};
}

function header(data, mend) {
  if (!data.length) throw new MidiError('the file is empty; give a MIDI file');
  if (word(data, 0) !== 'MThd') {
    throw new MidiError('not a MIDI file (it does not begin with MThd); give a .mid file');
  }
  if (data.length < 14) throw new MidiError('cut short inside its header; get a complete copy');
  let length = lengthAt(data, 0);
  const [form, announced, division] = [8, 10, 12].map((place) => number(data, place, 2));
  if (length < 6 || form > 2) {
    throw new MidiError(
      `damaged header (length ${length}, format ${form}); only formats 0, 1 and 2 can be read`);
  }
  if (length > 6 && !beginsChunk(data, 8 + length)) {
    mend('header of a wrong length');
    length = 6;
  }
  return {form, announced, division, place: 8 + length};
}

/**
 * The parts of the track that begins at `start`, and the place behind it. Its length is believed where an End of Track
 * stands before `stop`, or another chunk or nothing behind. Otherwise it goes on to its End of Track, or to the next
 * chunk.
 */
function track(data, start, stop, which, mend) {
  if (start > data.length) throw new MidiError(`cut short where track ${which} begins; get a complete copy`);
  const missing = stop - data.length;
  const fits = beginsChunk(data, stop);
  const limit = fits ? stop : nextOfMidi(data, start);
  const reads = (from, bytes, to, whole) => {
    try {
      return readTrack(bytes, from, to, whole, mend);
    } catch {
      return null;
    }
  };
  if (missing > 0 && missing <= 4 && limit === data.length) {
    const rest = [0, 0xff, 0x2f, 0].slice(-missing);
    const completed = new Uint8Array(data.length + missing);
    completed.set(data);
    completed.set(rest, data.length);
    const parts = reads(start, completed, completed.length, true);
    if (parts) {
      mend('End of Track cut off');
      return {parts, end: limit};
    }
  } else if (!fits && stop <= limit) {
    const parts = reads(start, data, stop, true);
    if (parts) return {parts, end: stop};
  }
  let parts;
  try {
    parts = readTrack(data, start, limit, missing > 0, mend);
  } catch (error) {
    if (missing <= 0) throw error;
    throw new MidiError(`cut short: track ${which} lacks ${missing} bytes; get a complete copy`);
  }
  const end = parts.at(-1).end;
  if (fits && word(data, end) !== 'MTrk') {
    if (data.subarray(end, stop).some(Boolean)) mend('bytes behind an End of Track, left out', stop - end);
    return {parts, end: stop};
  }
  mend('tracks of a wrong length', end !== stop);
  return {parts, end};
}

const isOfMidi = (kind) => kind === 'MTrk' || kind === 'MThd';

/** Whether a chunk begins at `place`, or nothing at all. */
function beginsChunk(data, place) {
  const kind = word(data, place);
  if (isOfMidi(kind) || place === data.length) return true;
  return /^[0-9A-Za-z]{4}$/.test(kind) && place + 8 + lengthAt(data, place) <= data.length;
}

function nextOfMidi(data, place) {
  while (place < data.length && !(data[place] === 0x4d && isOfMidi(word(data, place)))) place += 1;
  return Math.min(place, data.length);
}

// ---- tracks ----

/** The parts of a track: up to its End of Track, and what follows that if it goes on cleanly to `stop`. */
function readTrack(data, start, stop, whole, mend) {
  const parts = [walk(data, start, stop, 0)];
  const [first] = parts;
  if (first.end < stop && word(data, first.end) !== 'MTrk') {
    try {
      const more = [];
      let last = first;
      while (last.closed && last.end < stop) more.push(last = walk(data, last.end, stop, last.ticks));
      more.forEach(checkNotes);
      parts.push(...more);
    } catch (error) {
      if (!(error instanceof MidiError)) throw error;
    }
  }
  const last = /** @type {Part} */ (parts.at(-1));
  if (whole && !(last.closed && last.end === stop)) throw new MidiError('cut short');
  mend('tracks continued behind an End of Track', parts.length > 1);
  return parts;
}

/**
 * Reads from `place` to an End of Track or to `stop`.
 * @returns {Part}
 */
function walk(data, place, stop, ticks) {
  /** @type {Part} */
  const part = {end: 0, closed: false, ticks, messages: [], tempos: [], title: '', high: 0, timeless: 0};
  const at = (index) => data[index] ?? 0;
  const variable = (what) => {
    let value = 0;
    for (let count = 0; count < 4; count++) {
      const byte = at(place++);
      value = value * 128 + (byte & 127);
      if (byte < 128) return value;
    }
    throw new MidiError(`damaged: a ${what} is longer than four bytes; get an intact copy`);
  };
  let running = 0;
  while (place < stop && !part.closed) {
    part.ticks += variable('delta time');
    let status = at(place);
    if (status < 0x80) {
      if (!running) {
        throw new MidiError("damaged: a track's first event has no status byte; get an intact copy");
      }
      status = running;
    } else {
      place += 1;
    }
    if (status < 0xf0) {
      running = status;
      if (status >> 5 === 6) { // program and pressure: one data byte
        part.high += Number(at(place) > 127);
        place += 1;
      } else {
        part.messages.push(part.ticks, status, at(place), at(place + 1));
        place += 2;
      }
    } else if (status === 0xff) {
      const kind = at(place++);
      const length = variable('variable-length number');
      const content = data.subarray(place, place + length);
      place += length;
      if (kind === 0x51) {
        const tempo = content.length === 3 ? number(content, 0, 3) : 0;
        if (tempo) part.tempos.push(part.ticks, tempo);
        else part.timeless += 1; // 0 would stop time
      } else if (kind === 0x03 && !part.title) {
        part.title = text(content);
      }
      part.closed = kind === 0x2f && place <= stop;
    } else if (status === 0xf0 || status === 0xf7) {
      const length = variable('variable-length number');
      place += length;
    } else {
      place += SYSTEM_DATA_BYTES[status] ?? 0;
    }
  }
  if (place > stop) throw new MidiError('damaged: a track ends inside an event; get an intact copy');
  part.end = place;
  return part;
}

function checkNotes({messages}) {
  for (let i = 0; i < messages.length; i += 4) {
    const status = messages[i + 1], first = messages[i + 2], second = messages[i + 3];
    if (status < 0xa0 && (first > 127 || (status >= 0x90 && second > 127))) {
      throw new MidiError("damaged: a note's key or velocity is above 127; get an intact copy");
    }
  }
}

/** One line of text; MIDI names no encoding, so UTF-8 where it fits and Latin-1 elsewhere. */
function text(content) {
  let letters;
  try {
    letters = new TextDecoder('utf-8', {fatal: true, ignoreBOM: true}).decode(content);
  } catch {
    letters = Array.from(content, (byte) => String.fromCharCode(byte)).join('');
  }
  return letters.replace(/[\p{C}\p{Z}]+/gu, ' ').trim();
}

// ---- keys and pedals ----

/** The messages of all tracks in playing order, with the song of each; tempos; the tick at which each song begins. */
function inOrder(tracks, inTurn, mend) {
  const events = [], tempos = [], begins = inTurn ? [] : [0];
  let begin = 0;
  tracks.forEach((parts, index) => {
    const song = inTurn ? index : 0;
    if (inTurn) begins.push(begin);
    for (const part of parts) {
      checkNotes(part);
      mend('tempo events without a tempo, left out', part.timeless);
      mend(HIGH_BYTES, part.high);
      const {messages} = part;
      for (let i = 0; i < messages.length; i += 4) {
        const first = messages[i + 2], second = messages[i + 3];
        if (first > 127 || second > 127) mend(HIGH_BYTES);
        const tick = begin + messages[i];
        events.push({tick, song, status: messages[i + 1], first, second: Math.min(second, 127)});
      }
      for (let i = 0; i < part.tempos.length; i += 2) {
        tempos.push({tick: begin + part.tempos[i], song, us: part.tempos[i + 1]});
      }
    }
    if (inTurn) begin += parts.at(-1).ticks;
  });
  events.sort((a, b) => a.tick - b.tick);
  return {events, tempos, begins};
}

/**
 * Notes (on, off, pitch, velocity) and pedal spans (down, up), in ticks. Keys and pedals belong to a channel of a song;
 * those that are never let go end with the last event of their song's keys and pedals.
 */
function played(events, songs, mend) {
  const notes = [], spans = [];
  const last = new Array(Math.max(songs, 1)).fill(0);
  const voices = new Map(); // by channel and song: the events of each key since the last silence, and the pedal
  const close = (voice, end, silenced) => {
    for (const [pitch, section] of voice.keys) {
      const {off, lost, open} = paired(section, end);
      mend('notes without a release', lost + Number(open && !silenced));
      section.forEach(({tick, velocity}, i) => velocity && notes.push([tick, off[i], pitch, velocity]));
    }
    voice.keys.clear();
  };
  const lift = (voice, tick) => {
    spans.push([Math.min(voice.down, tick), tick]);
    voice.down = null;
  };
  for (const {tick, song, status, first, second} of events) {
    const kind = status >> 4, channel = status & 15;
    if (channel === DRUM_CHANNEL) {
      mend('notes of drums, left out', kind === 9 && second > 0);
      continue;
    }
    const id = song * 16 + channel;
    if (!voices.has(id)) voices.set(id, {song, keys: new Map(), down: null});
    const voice = voices.get(id);
    if (kind === 8 || kind === 9) {
      if (!voice.keys.has(first)) voice.keys.set(first, []);
      voice.keys.get(first).push({tick, velocity: kind === 9 ? second : 0});
      last[song] = tick;
    } else if (kind === 11 && (first === PEDAL || first === RESET)) {
      if (first === PEDAL && second >= 64) voice.down ??= tick;
      else if (voice.down !== null) lift(voice, tick);
      last[song] = tick;
    } else if (kind === 11 && first === SOSTENUTO) {
      mend('presses of the sostenuto pedal, left out', second >= 64);
    } else if (kind === 11 && (first === SOUND_OFF || first === NOTES_OFF)) {
      close(voice, tick, true);
      if (first === SOUND_OFF && voice.down !== null) { // what sounds ends; what is let go later is held again
        lift(voice, tick);
        voice.down = tick + 1;
      }
    }
  }
  for (const voice of voices.values()) {
    close(voice, last[voice.song], false);
    if (voice.down === null) continue;
    mend('pedals never lifted');
    lift(voice, last[voice.song]);
  }
  return {notes, spans};
}

/**
 * When each strike of one key ends: `off`, with an entry for every event; how many end at the next strike, and whether
 * one stays open. A release ends the key's oldest note; where strikes outnumber releases, those have lost theirs that
 * would stay open if releases closed strikes as brackets do. At one tick the releases of older notes come first.
 */
function paired(section, end) {
  const line = [];
  let ofTick = [], older = 0, newer = 0, now = 0;
  section.forEach(({tick, velocity}, i) => {
    if (tick !== now) {
      line.push(...ofTick);
      [ofTick, older, newer, now] = [[], older + newer, 0, tick];
    }
    if (velocity) {
      ofTick.push(i);
      newer += 1;
    } else if (older) {
      line.push(i);
      older -= 1;
    } else if (newer) {
      ofTick.push(i);
      newer -= 1;
    }
  });
  const off = new Array(section.length).fill(end), strikes = [], releases = [];
  let again = -1, lost = 0, open = false;
  for (const i of [...line, ...ofTick].reverse()) {
    if (!section[i].velocity) {
      releases.push(i);
      continue;
    }
    if (strikes.length < releases.length) {
      strikes.push(i);
    } else if (again < 0) {
      open = true;
    } else {
      off[i] = again;
      lost += 1;
    }
    again = section[i].tick;
  }
  strikes.forEach((strike, i) => { off[strike] = section[releases[i]].tick; });
  return {off, lost, open};
}

/** Ticks to seconds. A division with its top bit set is SMPTE time, which knows no tempo. */
function clock(division, tempos, begins, mend) {
  const frames = division & 0x8000 ? FRAMES_PER_S[256 - (division >> 8)] : 0;
  if (!division || (frames && !(division & 0xff))) {
    throw new MidiError('damaged header (a division of 0 ticks); get an intact copy');
  }
  if (frames) return (tick) => tick * (1 / (frames * (division & 0xff)));
  mend('SMPTE rate that does not exist, taken as ticks per quarter note', division >> 15);
  const spans = [...begins.map((tick, song) => ({tick, song, us: DEFAULT_TEMPO_US})), ...tempos];
  spans.sort((a, b) => a.song - b.song || a.tick - b.tick);
  const begin = [0];
  const each = spans.map(({us}) => us / (1e6 * division));
  for (let i = 1; i < spans.length; i++) {
    begin.push(begin[i - 1] + (spans[i].tick - spans[i - 1].tick) * each[i - 1]);
  }
  return (tick) => {
    let [low, high] = [0, spans.length]; // the last span that begins by then
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      [low, high] = spans[middle].tick <= tick ? [middle, high] : [low, middle];
    }
    return begin[low] + (tick - spans[low].tick) * each[low];
  };
}

// ---- writing ----

const WRITTEN_TICKS_PER_QUARTER = 500; // at 120 quarters a minute: a tick is a millisecond
const MAX_DELTA_TICKS = 0x0fffffff;

/** @typedef {{notes: Note[], pedals?: Span[], title?: string}} Part */

/**
 * A MIDI file of format 0: one piano track, 1 ms a tick, the pedal as controller 64. A note struck while an older one of
 * its key is held takes another channel, since a release cannot say which note it means. Several pieces that sound
 * together, such as those of two players, are the tracks of a file of format 1, each on channels of its own.
 * @param {Part | Part[]} piece
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function writeMidi(piece) {
  const parts = [piece].flat(), channels = [...Array(16).keys()].filter((channel) => channel !== DRUM_CHANNEL);
  const letters = (kind) => [...kind].map((letter) => letter.charCodeAt(0));
  const sizes = [Number(parts.length > 1), parts.length, WRITTEN_TICKS_PER_QUARTER];
  const file = [...letters('MThd'), 0, 0, 0, 6, ...sizes.flatMap((size) => bigEndian(size, 2))];
  parts.forEach((part, number) => {
    const track = trackOf(part, channels.filter((_, n) => n % parts.length === number));
    file.push(...letters('MTrk'), ...bigEndian(track.length, 4));
    for (const byte of track) file.push(byte);
  });
  return new Uint8Array(file);
}

/** @param {Part} part @param {number[]} channels */
function trackOf({notes, pedals = [], title = ''}, channels) {
  const events = [];
  const lanes = inLanes(notes, channels);
  for (const channel of [...new Set([channels[0], ...lanes.map((lane) => lane.channel)])].sort((a, b) => a - b)) {
    events.push([0, 0, 0xc0 | channel, 0]);
    for (const {start, end} of merged(pedals)) {
      const [down, up] = [ticksOf(start), ticksOf(end)];
      if (up > down) events.push([down, 2, 0xb0 | channel, PEDAL, 127], [up, 1, 0xb0 | channel, PEDAL, 0]);
    }
  }
  for (const {on, off, pitch, velocity, channel} of lanes) {
    events.push([on, off > on ? 6 : 4, 0x90 | channel, pitch, velocity]);
    events.push([off, off > on ? 3 : 5, 0x80 | channel, pitch, 0]);
  }
  events.sort((a, b) => a[0] - b[0] || a[1] - b[1]);

  const name = new TextEncoder().encode(title);
  const track = [0, 0xff, 0x03, ...digits(name.length), ...name];
  track.push(0, 0xff, 0x51, 3, ...bigEndian(DEFAULT_TEMPO_US, 3));
  let now = 0;
  for (const [tick, , ...message] of events) {
    for (; tick - now > MAX_DELTA_TICKS; now += MAX_DELTA_TICKS) {
      track.push(...digits(MAX_DELTA_TICKS), 0xff, 1, 0); // an empty text bridges the gap
    }
    track.push(...digits(tick - now), ...message);
    now = tick;
  }
  track.push(0, 0xff, 0x2f, 0);
  return track;
}

/** Notes in ticks with a channel for each, so that no two of a key overlap in one: the first that is free. */
function inLanes(notes, channels) {
  const ends = new Map();
  const sorted = [...notes].sort((a, b) => a.start - b.start || a.pitch - b.pitch || a.end - b.end);
  const lanes = sorted.map(({pitch, velocity, start, end}) => (
    {on: ticksOf(start), off: ticksOf(end), pitch, velocity, channel: channels[0]}));
  for (const lane of [...lanes].sort((a, b) => a.on - b.on || a.pitch - b.pitch || a.off - b.off)) {
    if (!ends.has(lane.pitch)) ends.set(lane.pitch, new Array(channels.length).fill(0));
    const silent = ends.get(lane.pitch);
    const free = silent.findIndex((last) => last <= lane.on);
    const place = free < 0 ? channels.length - 1 : free;
    silent[place] = Math.max(lane.off, silent[place]);
    lane.channel = channels[place];
  }
  return lanes;
}

/** Milliseconds, halves to the even one. */
function ticksOf(seconds) {
  const ticks = seconds * 1000, floor = Math.floor(ticks), rest = ticks - floor;
  return floor + Number(rest > 0.5 || (rest === 0.5 && floor % 2 === 1));
}

const bigEndian = (value, size) => Array.from({length: size}, (_, i) => (value / 256 ** (size - 1 - i)) & 255);

/** MIDI's variable-length form of a number. */
function digits(value) {
  const found = [value & 127];
  for (let rest = value >>> 7; rest; rest >>>= 7) found.unshift((rest & 127) | 128);
  return found;
}
