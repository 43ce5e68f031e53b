// Notes and what is done with them. Times in seconds; lists of notes are sorted by start.

/**
 * @typedef {{pitch: number, velocity: number, start: number, end: number, given?: boolean}} Note
 *   `given`: it was put in, by a file or by hand, not played by the model. Notes are values: nobody changes one.
 * @typedef {{start: number, end: number}} Span
 * @typedef {{title: string, notes: Note[], pedals: Span[], kept: Span[]}} Piece
 *   `kept`: spans of time that nothing plays anew.
 */

/** @type {Piece} */
export const NOTHING = Object.freeze({title: '', notes: [], pedals: [], kept: []});

/** The index of the first of `items` that starts at `time` or later. */
export function firstFrom(items, time) {
  let low = 0, high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (items[middle].start < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Puts notes into a sorted list. They mostly belong at its end. */
export function insert(list, notes) {
  for (const note of notes) {
    let place = list.length;
    while (place > 0 && (list[place - 1].start > note.start
      || (list[place - 1].start === note.start && list[place - 1].pitch > note.pitch))) place--;
    list.splice(place, 0, note);
  }
}

/** When the last key and pedal of a piece go up. */
export function endOf({notes, pedals}) {
  let end = pedals.length ? pedals[pedals.length - 1].end : 0;
  for (const note of notes) if (note.end > end) end = note.end;
  return end;
}

/** When a note falls silent that the pedal may hold. */
export function silentAt(note, pedals) {
  const span = pedals[firstFrom(pedals, note.end + 1e-9) - 1];
  return span && note.end < span.end ? span.end : note.end;
}

/** What happens before `time`: keys that are down then stay as they were, pedals go up. */
export function before({title, notes, pedals, kept}, time) {
  return {
    title,
    notes: notes.slice(0, firstFrom(notes, time)).map((note) => {
      const silent = note.end > time ? note.end : silentAt(note, pedals);
      return silent > time && silent > note.end ? {...note, end: silent} : note;
    }),
    pedals: pedals.filter(({start}) => start < time).map(({start, end}) => ({start, end: Math.min(end, time)})),
    kept: kept.filter(({end}) => end <= time),
  };
}

/** A piece with other music from `from` to `to`; without `to`, to its end. */
export function replaced(piece, from, to, {notes, pedals = []}) {
  const first = before(piece, from);
  const later = to === null ? NOTHING : {
    notes: piece.notes.slice(firstFrom(piece.notes, to)),
    pedals: piece.pedals.filter(({end}) => end > to).map(({start, end}) => ({start: Math.max(start, to), end})),
    kept: piece.kept.filter(({end}) => end > from),
  };
  const limit = to ?? Infinity;
  const between = notes.filter(({start}) => start < limit)
    .map((note) => (note.end > limit ? {...note, end: limit} : note));
  const all = [...first.notes];
  insert(all, between);
  return {
    title: piece.title,
    notes: all.concat(later.notes),
    pedals: [...first.pedals, ...pedals, ...later.pedals],
    kept: [...first.kept, ...later.kept],
  };
}

/** Joins and sorts spans of time. */
export function joined(spans) {
  const result = [];
  for (const {start, end} of [...spans].sort((a, b) => a.start - b.start)) {
    const last = result[result.length - 1];
    if (last && start <= last.end) last.end = Math.max(last.end, end);
    else result.push({start, end});
  }
  return result;
}

/** What a sentence counts: `1 pedal never lifted`, `2 pedals never lifted`. */
export const counted = (count, plural) => (
  `${count} ${count === 1 ? plural.replace(/^((?:\w+ ){0,2}?\w+?)(?:(ss)es|s)\b/, '$1$2') : plural}`);

/** m:ss, or m:ss.t with tenths. */
export function clock(seconds, tenths = false) {
  const whole = Math.max(0, tenths ? Math.floor(seconds * 10) / 10 : Math.floor(seconds));
  const rest = tenths ? (whole % 60).toFixed(1).padStart(4, '0') : String(Math.floor(whole % 60)).padStart(2, '0');
  return `${Math.floor(whole / 60)}:${rest}`;
}

const NAMES = ['C', 'C♯', 'D', 'E♭', 'E', 'F', 'F♯', 'G', 'A♭', 'A', 'B♭', 'B'];

/** A key in words: C4 is the middle one. */
export const keyName = (pitch) => NAMES[pitch % 12] + (Math.floor(pitch / 12) - 1);
export const isBlack = (pitch) => [1, 3, 6, 8, 10].includes(pitch % 12);
