// Files that leave the page: MIDI, a session, sound and pictures.

import {writeMidi} from './engine/midi.js';
import {withPedal} from './engine/notes.js';
import {clock, endOf, firstFrom, keyName, silentAt} from './music.js';
import {Piano} from './piano.js';
import {givenSpans, shade, themed} from './roll.js';

const SAMPLE_RATE = 44_100, TAIL_S = 4, PART_S = 4, MOST_S = 20 * 60;
const SYSTEM_S = 60, WIDTH = 1_600, MARGIN = 56, LANE = 3.2, GAP = 34;
const MOST_PICTURED_S = 60 * 60;

/** Hands a file to the browser. */
export function download(name, content, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** A name that every system takes for a file. */
export const fileName = (title) => (title || 'ritornello').replace(/[^\p{L}\p{N} ._()-]+/gu, '').trim().slice(0, 80) || 'ritornello';

/**
 * A piece as a MIDI file: what was put in or played by hands on a track of its own, where there is something of both.
 * With `pedal` what the model has played since is written as keys and sustain pedal; else it is in the notes.
 */
export function midiOf(piece, pedal = false) {
  const last = piece.notes.findLastIndex((note) => note.given), {title} = piece;
  const since = last < 0 ? 0 : piece.notes.slice(last).find(({start}) => start > piece.notes[last].start)?.start ?? Infinity;
  const {notes, pedals} = pedal ? withPedal(piece.notes, piece.pedals, since) : piece;
  const [given, played] = [true, false].map((by) => notes.filter((note) => Boolean(note.given) === by));
  if (!given.length || !played.length) return writeMidi({notes, pedals, title});
  return writeMidi([{notes: given, pedals, title: title || 'person'}, {notes: played, pedals, title: 'model'}]);
}

/** The sound of a piece as a WAV file, rendered faster than it sounds; `onPart` gets the share that is done. */
export async function wavOf(piece, samples, onPart = (_) => {}) {
  const seconds = endOf(piece) + TAIL_S;
  if (seconds > MOST_S) throw new Error(`a sound lasts ${MOST_S / 60} minutes at most: save a part of it, or as MIDI`);
  await samples.loaded;
  const context = new OfflineAudioContext(1, Math.ceil(seconds * SAMPLE_RATE), SAMPLE_RATE);
  const piano = new Piano(context, samples);
  const {notes, pedals} = piece;
  const schedule = (from) => {
    for (let n = firstFrom(notes, from); n < notes.length && notes[n].start < from + PART_S; n++) {
      piano.strike(notes[n].pitch, notes[n].velocity, notes[n].start, Math.max(notes[n].start + 0.03, silentAt(notes[n], pedals)));
    }
  };
  schedule(0);
  for (let time = PART_S; time < seconds; time += PART_S) {
    context.suspend(time - 0.5).then(() => {
      schedule(time);
      onPart(time / seconds);
      context.resume();
    });
  }
  return wavFile((await context.startRendering()).getChannelData(0));
}

function wavFile(wave) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * wave.length));
  const text = (place, word) => [...word].forEach((letter, n) => bytes.setUint8(place + n, letter.charCodeAt(0)));
  text(0, 'RIFF'); text(8, 'WAVEfmt '); text(36, 'data');
  bytes.setUint32(4, 36 + 2 * wave.length, true);
  bytes.setUint32(16, 16, true);
  [1, 1].forEach((value, n) => bytes.setUint16(20 + 2 * n, value, true));
  bytes.setUint32(24, SAMPLE_RATE, true);
  bytes.setUint32(28, 2 * SAMPLE_RATE, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  bytes.setUint32(40, 2 * wave.length, true);
  for (let n = 0; n < wave.length; n++) {
    bytes.setInt16(44 + 2 * n, Math.round(Math.max(-1, Math.min(1, wave[n])) * 32767), true);
  }
  return new Blob([bytes], {type: 'audio/wav'});
}

/** A picture of a whole piece as SVG: a minute in each line. */
export function svgOf(piece) {
  const seconds = Math.max(10, endOf(piece));
  if (seconds > MOST_PICTURED_S) throw new Error('a picture holds an hour at most');
  const theme = themed('light');
  const pitches = piece.notes.map(({pitch}) => pitch);
  const low = Math.max(0, pitches.reduce((a, b) => Math.min(a, b), 48) - 2);
  const high = Math.min(127, pitches.reduce((a, b) => Math.max(a, b), 72) + 2);
  const lineS = Math.min(SYSTEM_S, seconds);
  const scale = (WIDTH - 2 * MARGIN) / lineS;
  const tall = (high - low + 1) * LANE + 8;
  const lines = Math.ceil(seconds / lineS);
  const height = 70 + lines * (tall + GAP);
  const out = [];
  const box = (x, y, w, h, fill, more = '') =>
    out.push(`<rect x="${x.toFixed(2)}" y="${y.toFixed(2)}" width="${w.toFixed(2)}" height="${h.toFixed(2)}" fill="${fill}"${more}/>`);
  const word = (x, y, text, size, more = '') =>
    out.push(`<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" font-size="${size}" fill="${theme.faint}" ${more}>${escaped(text)}</text>`);
  box(0, 0, WIDTH, height, theme.page);
  word(MARGIN, 40, piece.title || 'Ritornello', 20, 'font-family="Georgia, serif" font-style="italic"');
  const given = givenSpans(piece.notes);
  for (let line = 0; line < lines; line++) {
    const [from, to, top] = [line * lineS, (line + 1) * lineS, 64 + line * (tall + GAP)];
    const place = (time) => MARGIN + (Math.min(to, Math.max(from, time)) - from) * scale;
    const y = (pitch) => top + (high - pitch) * LANE;
    box(MARGIN, top, lineS * scale, tall - 8, theme.white);
    for (let pitch = low; pitch <= high; pitch++) {
      if (pitch % 12) continue;
      box(MARGIN, y(pitch) + LANE, lineS * scale, 0.6, theme.octave);
      word(MARGIN - 6, y(pitch) + LANE, keyName(pitch), 9, 'text-anchor="end"');
    }
    for (const {start, end} of given) if (end > from && start < to) box(place(start), top, place(end) - place(start), tall - 8, '#0b7285', ' opacity=".07"');
    for (let time = from; time < to; time += 10) word(place(time), top + tall + 12, clock(time), 10);
    for (const {start, end} of piece.pedals) {
      if (end > from && start < to) box(place(start), top + tall - 6, Math.max(0.5, place(end) - place(start) - 0.5), 3, theme.pedal);
    }
    for (const note of piece.notes) {
      if (note.end <= from || note.start >= to) continue;
      const fill = (note.given ? theme.given : theme.ramp)[shade(note.velocity)];
      box(place(note.start), y(note.pitch), Math.max(1, place(note.end) - place(note.start)), LANE - 0.3, fill);
    }
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="sans-serif">${out.join('')}</svg>`;
}

/** The same picture as PNG. */
export async function pngOf(piece) {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([svgOf(piece)], {type: 'image/svg+xml'}));
  try {
    await image.decode();
    const canvas = document.createElement('canvas');
    Object.assign(canvas, {width: image.width, height: image.height});
    canvas.getContext('2d').drawImage(image, 0, 0);
    return await new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

const escaped = (text) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
