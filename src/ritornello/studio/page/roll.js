// The piano roll: notes over time on a canvas, velocity as colour, what was given told apart from what was played.
//
// Paper and notes are drawn once into a picture twice as wide as the window, and drawn anew when the window leaves it or the
// music changes; notes that are added go on top. So a frame costs one copy, whatever the piece holds.

import {Emitter} from './emitter.js';
import {NOTHING, clock, firstFrom, isBlack, keyName, silentAt} from './music.js';

const LOW = 21, HIGH = 108; // the piano's keys
const GUTTER = 40, RULER = 26, PEDAL = 16;
const LONGEST_S = 30; // how far back a note may begin that still sounds
const ZOOM = {least: 1, most: 500};
const RAMP_AT = [1, 33, 49, 64, 80, 96, 112, 127];
const THEMES = {
  light: {
    ramp: ['#fdb27e', '#fb9562', '#f4735c', '#db4a68', '#b13579', '#812581', '#52137c', '#1a1042'],
    given: ['#9fd4cf', '#7cc3bf', '#56aeb0', '#35979f', '#1d7f8c', '#0f6779', '#0a4f63', '#06384a'],
    white: '#fffdfa', black: '#f5f1ea', line: '#ece6dc', octave: '#d4cabc', tint: 'rgba(11,114,133,.07)', ink: '#2b2830',
    faint: '#787280', accent: '#0b7285', pedal: '#a9b6c8', page: '#fbf9f5', mark: 'rgba(11,114,133,.16)', kept: '#b98a1d',
    glow: 'rgba(43,40,48,.85)',
  },
  dark: {
    ramp: ['#5b2a6e', '#7d2f80', '#a33a80', '#c74a76', '#e5646a', '#f78561', '#fcab70', '#fddb9c'],
    given: ['#1d4a55', '#1f5e69', '#24747e', '#2f8c93', '#45a4a8', '#65bcbc', '#8dd3d0', '#c0eae5'],
    white: '#1e1b25', black: '#191620', line: '#262230', octave: '#3b3547', tint: 'rgba(101,188,188,.09)', ink: '#ece7f1',
    faint: '#9a92a5', accent: '#65bcbc', pedal: '#4b5568', page: '#15131a', mark: 'rgba(101,188,188,.2)', kept: '#e0b354',
    glow: 'rgba(255,250,240,.9)',
  },
};

/** The colours of a theme, `light` or `dark`. */
export const themed = (name) => THEMES[name];

/** The place of a velocity in a theme's ramps. */
export const shade = (velocity) => Math.max(0, RAMP_AT.findIndex((_, n) => n === 7 || velocity < RAMP_AT[n + 1]));

/** Fires `seek` (detail: seconds), `region` (detail: a span or null). */
export class Roll extends Emitter {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.picture = document.createElement('canvas');
    /** @type {import('./music.js').Piece} */
    this.piece = NOTHING;
    this.theme = THEMES.light;
    this.start = 0; // the time at the left
    this.pxPerS = 60;
    [this.low, this.high] = [43, 79]; // pitches that are shown
    this.width = this.height = 0;
    this.ratio = 1;
    this.pictureStart = this.pictureEnd = 0;
    this.position = this.length = this.frames = 0;
    /** @type {import('./music.js').Span | null} */
    this.region = null;
    /** @type {{from: number, to: number | null} | null} */
    this.span = null;
    this.follow = this.stale = this.dirty = true;
    /** @type {import('./music.js').Note[]} */
    this.sounding = [];
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
    const frame = () => {
      if (this.dirty) this.draw();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  /** What the roll shows, for tests and for those who ask. */
  state() {
    const {start, pxPerS, low, high, position, region, span, follow} = this;
    return {start, end: start + this.seconds, pxPerS, low, high, position, region, span, follow,
      notes: this.piece.notes.length, given: this.piece.notes.filter(({given}) => given).length};
  }

  get seconds() { return (this.width - GUTTER) / this.pxPerS; }
  get lane() { return (this.height - RULER - PEDAL) / (this.high - this.low + 1); }
  x(time) { return GUTTER + (time - this.start) * this.pxPerS; }
  y(pitch) { return RULER + (this.high - pitch) * this.lane; }
  time(x) { return Math.max(0, this.start + (x - GUTTER) / this.pxPerS); }

  /** Another piece; `span` is the part of it that is being chosen, or null. */
  setPiece(piece, span = null) {
    this.piece = piece;
    this.span = span;
    this.length = 0;
    [this.low, this.high] = [43, 79];
    for (const note of piece.notes) this.widen(note);
    this.invalidate();
  }

  /** Notes that were added to the piece. */
  add(notes) {
    for (const note of notes) if (this.widen(note)) this.stale = true;
    if (!this.stale && this.picture.width) this.drawNotes(this.picture.getContext('2d'), notes);
    this.dirty = true;
  }

  /** Where the music is, and which notes sound. */
  setPosition(position, sounding) {
    this.position = position;
    this.sounding = sounding;
    if (this.follow && this.width) {
      const x = this.x(position);
      const edge = GUTTER + (this.width - GUTTER) * 0.72;
      if (x > edge) this.start += (x - edge) / this.pxPerS;
      else if (x < GUTTER) this.start = Math.max(0, position - this.seconds * 0.1);
    }
    this.dirty = true;
  }

  setRegion(region) {
    this.region = region;
    this.dirty = true;
    this.emit('region', region);
  }

  setTheme(name) {
    this.theme = THEMES[name];
    this.invalidate();
  }

  /** Zooms by a factor; the time at `x` stays where it is. */
  zoom(factor, x = this.x(this.position)) {
    const at = Math.min(this.width, Math.max(GUTTER, x));
    const time = this.time(at);
    this.pxPerS = Math.min(ZOOM.most, Math.max(ZOOM.least, this.pxPerS * factor));
    this.start = Math.max(0, time - (at - GUTTER) / this.pxPerS);
    this.invalidate();
  }

  /** Moves the window by pixels. */
  pan(pixels) {
    this.follow = false;
    this.start = Math.min(Math.max(0, this.start + pixels / this.pxPerS), Math.max(0, this.length - this.seconds * 0.2));
    this.dirty = true;
  }

  /** All of the piece in the window. */
  fit() {
    this.pxPerS = Math.min(120, Math.max(ZOOM.least, (this.width - GUTTER - 20) / Math.max(5, this.length)));
    this.start = 0;
    this.invalidate();
  }

  invalidate() {
    this.stale = this.dirty = true;
  }

  widen({pitch, end}) {
    this.length = Math.max(this.length, end);
    if (pitch >= this.low && pitch <= this.high) return false;
    const [low, high] = [this.low, this.high];
    this.low = Math.min(this.low, Math.max(pitch - 4, Math.min(pitch, LOW)));
    this.high = Math.max(this.high, Math.min(pitch + 4, Math.max(pitch, HIGH)));
    return low !== this.low || high !== this.high;
  }

  resize() {
    const {clientWidth, clientHeight} = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    this.width = clientWidth;
    this.height = clientHeight;
    this.ratio = ratio;
    this.canvas.width = Math.round(clientWidth * ratio);
    this.canvas.height = Math.round(clientHeight * ratio);
    this.invalidate();
    this.draw();
  }

  draw() {
    this.dirty = false;
    if (!this.width || !this.height) return;
    this.frames++;
    const c = this.canvas.getContext('2d');
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    const left = (this.start - this.pictureStart) * this.pxPerS;
    if (this.stale || left < 0 || left > this.width) this.drawPicture();
    const offset = (this.start - this.pictureStart) * this.pxPerS;
    const {theme, width, height} = this;
    c.fillStyle = theme.page;
    c.fillRect(0, 0, width, height);
    c.drawImage(this.picture, -Math.round(offset * this.ratio) / this.ratio + GUTTER, 0,
      this.picture.width / this.ratio, this.picture.height / this.ratio);
    this.drawMarks(c);
    this.drawSounding(c);
    this.drawRuler(c);
    this.drawGutter(c);
    const x = this.x(this.position);
    if (x >= GUTTER && x <= width) {
      c.fillStyle = theme.accent;
      c.fillRect(x - 0.75, 4, 1.5, height - 4);
      c.beginPath();
      c.moveTo(x - 6, 3);
      c.lineTo(x + 6, 3);
      c.lineTo(x, 13);
      c.fill();
    }
  }

  /** Paper and notes of this window and of half a window on both sides. */
  drawPicture() {
    this.stale = false;
    const seconds = this.seconds;
    this.pictureStart = Math.max(0, this.start - seconds / 2);
    this.pictureEnd = this.pictureStart + 2 * seconds + GUTTER / this.pxPerS;
    const span = (this.pictureEnd - this.pictureStart) * this.pxPerS;
    this.picture.width = Math.ceil(span * this.ratio);
    this.picture.height = this.canvas.height;
    const c = this.picture.getContext('2d', {alpha: false});
    c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.drawPaper(c, span);
    this.drawNotes(c, null);
  }

  drawPaper(c, span) {
    const {theme, height, lane} = this;
    const bottom = height - PEDAL;
    c.fillStyle = theme.page;
    c.fillRect(0, 0, span, height);
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      c.fillStyle = isBlack(pitch) ? theme.black : theme.white;
      c.fillRect(0, this.y(pitch), span, lane + 0.5);
    }
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      if (pitch % 12 !== 0 && pitch % 12 !== 5) continue;
      c.fillStyle = pitch % 12 ? theme.line : theme.octave;
      c.fillRect(0, this.y(pitch) + lane - 0.5, span, 1);
    }
    const step = tickStep(this.pxPerS);
    c.fillStyle = theme.line;
    for (let time = Math.ceil(this.pictureStart / step) * step; time < this.pictureEnd; time += step) {
      c.fillRect((time - this.pictureStart) * this.pxPerS, RULER, 1, bottom - RULER);
    }
    c.fillStyle = theme.tint;
    for (const {start, end} of givenSpans(this.piece.notes)) {
      c.fillRect((start - this.pictureStart) * this.pxPerS, RULER, (end - start) * this.pxPerS, bottom - RULER);
    }
    c.fillStyle = theme.pedal;
    for (const {start, end} of this.piece.pedals) {
      if (end < this.pictureStart || start > this.pictureEnd) continue;
      const width = Math.max(1, (end - start) * this.pxPerS - 1);
      c.fillRect((start - this.pictureStart) * this.pxPerS, bottom + 5, width, PEDAL - 10);
    }
  }

  /** Draws some notes, or (null) all that the picture shows. */
  drawNotes(c, some) {
    const {notes, pedals} = this.piece;
    const list = some ?? notes.slice(firstFrom(notes, this.pictureStart - LONGEST_S), firstFrom(notes, this.pictureEnd));
    const height = Math.max(2, this.lane - (this.lane > 5 ? 1 : 0));
    if (pedals.length) {
      c.globalAlpha = 0.22;
      for (const note of list) {
        const silent = silentAt(note, pedals);
        if (silent > note.end) this.drawNote(c, note, note.end, silent, height);
      }
      c.globalAlpha = 1;
    }
    for (const note of list) this.drawNote(c, note, note.start, note.end, height);
  }

  drawNote(c, note, start, end, height) {
    if (end < this.pictureStart || start > this.pictureEnd) return;
    c.fillStyle = (note.given ? this.theme.given : this.theme.ramp)[shade(note.velocity)];
    const x = (start - this.pictureStart) * this.pxPerS;
    const width = Math.max(2, (end - start) * this.pxPerS - (this.pxPerS > 20 ? 1 : 0));
    if (height >= 5 && width >= 5) {
      c.beginPath();
      c.roundRect(x, this.y(note.pitch), width, height, Math.min(3, height / 3));
      c.fill();
    } else c.fillRect(x, this.y(note.pitch), width, height);
  }

  drawMarks(c) {
    const {theme, height} = this;
    const bottom = height - PEDAL;
    for (const {start, end} of this.piece.kept) {
      c.fillStyle = theme.kept;
      c.globalAlpha = 0.1;
      c.fillRect(this.x(start), RULER, (end - start) * this.pxPerS, bottom - RULER);
      c.globalAlpha = 1;
      c.fillRect(this.x(start), RULER - 3, (end - start) * this.pxPerS, 3);
    }
    if (this.span) {
      const end = Math.min(this.width, this.x(this.span.to ?? Infinity));
      c.fillStyle = theme.accent;
      c.globalAlpha = 0.06;
      c.fillRect(this.x(this.span.from), RULER, end - this.x(this.span.from), bottom - RULER);
      c.globalAlpha = 1;
      c.fillRect(this.x(this.span.from), RULER, 1.5, bottom - RULER);
    }
    if (this.region) {
      c.fillStyle = theme.mark;
      c.fillRect(this.x(this.region.start), 0, (this.region.end - this.region.start) * this.pxPerS, bottom);
      c.fillStyle = theme.accent;
      for (const time of [this.region.start, this.region.end]) c.fillRect(this.x(time) - 0.5, 0, 1, bottom);
    }
  }

  drawSounding(c) {
    const height = Math.max(4, this.lane);
    for (const note of this.sounding) {
      const x = Math.max(GUTTER, this.x(note.start));
      const width = Math.max(3, this.x(note.end) - x);
      c.fillStyle = this.theme.glow;
      c.fillRect(x - 3, this.y(note.pitch) - 3, width + 6, height + 5);
      c.fillStyle = (note.given ? this.theme.given : this.theme.ramp)[shade(note.velocity)];
      c.fillRect(x, this.y(note.pitch), width, height - 1);
    }
  }

  drawRuler(c) {
    const {theme, width} = this;
    c.fillStyle = theme.page;
    c.globalAlpha = 0.86;
    c.fillRect(GUTTER, 0, width, RULER - 4);
    c.globalAlpha = 1;
    c.fillStyle = theme.faint;
    c.font = '11px system-ui, sans-serif';
    c.textBaseline = 'middle';
    c.textAlign = 'left';
    const step = tickStep(this.pxPerS);
    for (let time = Math.ceil(this.start / step) * step; this.x(time) < width; time += step) {
      c.fillRect(this.x(time), RULER - 9, 1, 6);
      c.fillText(clock(time, step < 1), this.x(time) + 4, RULER / 2 - 1);
    }
    if (this.region) {
      c.fillStyle = theme.mark;
      c.fillRect(this.x(this.region.start), 0, (this.region.end - this.region.start) * this.pxPerS, RULER);
    }
  }

  drawGutter(c) {
    const {theme, height, lane} = this;
    c.fillStyle = theme.page;
    c.fillRect(0, 0, GUTTER, height);
    c.font = '10px system-ui, sans-serif';
    c.textAlign = 'right';
    c.textBaseline = 'middle';
    c.fillStyle = theme.faint;
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      if (pitch % 12 === 0) c.fillText(keyName(pitch), GUTTER - 10, this.y(pitch) + lane / 2);
    }
    c.fillText('Ped.', GUTTER - 6, height - PEDAL / 2);
    c.fillStyle = theme.octave;
    c.fillRect(GUTTER - 1, RULER, 1, height - RULER);
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      c.fillStyle = isBlack(pitch) ? theme.ink : theme.white;
      c.fillRect(GUTTER - 7, this.y(pitch) + 0.5, 6, Math.max(1, lane - 1));
    }
  }

  listen() {
    const {canvas} = this;
    const pointers = new Map();
    let began = null, pinch = 0;
    const place = ({clientX, clientY}) => {
      const box = canvas.getBoundingClientRect();
      return {x: clientX - box.left, y: clientY - box.top};
    };
    canvas.addEventListener('pointerdown', (event) => {
      if (event.button > 0) return;
      canvas.setPointerCapture(event.pointerId);
      const at = place(event);
      pointers.set(event.pointerId, at);
      const marks = at.y < RULER || event.shiftKey;
      began = pointers.size === 1 ? {...at, time: this.time(at.x), marks, moved: false} : null;
      if (pointers.size === 2) pinch = distance([...pointers.values()]);
    });
    canvas.addEventListener('pointermove', (event) => {
      const old = pointers.get(event.pointerId);
      const at = place(event);
      canvas.style.cursor = at.y < RULER ? 'col-resize' : 'crosshair';
      if (!old) return;
      pointers.set(event.pointerId, at);
      if (pointers.size === 2) {
        const [a, b] = [...pointers.values()];
        const apart = distance([a, b]);
        if (pinch > 10 && apart > 10) this.zoom(apart / pinch, (a.x + b.x) / 2);
        pinch = apart;
      } else if (began) {
        began.moved ||= Math.abs(at.x - began.x) > 4;
        if (!began.moved) return;
        if (began.marks) {
          const [start, end] = [began.time, this.time(at.x)].sort((a, b) => a - b);
          this.setRegion({start, end});
        } else this.pan(old.x - at.x);
      }
    });
    const up = (event) => {
      pointers.delete(event.pointerId);
      if (began && !began.moved && event.type === 'pointerup') {
        if (began.marks && this.region) this.setRegion(null);
        else this.emit('seek', began.time);
      }
      began = null;
    };
    canvas.addEventListener('pointerup', up);
    canvas.addEventListener('pointercancel', up);
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      const {x} = place(event);
      if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(-event.deltaY / 300), x);
      else this.pan(Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : event.deltaY);
    }, {passive: false});
  }
}

const distance = (points) => {
  const [a, b] = points;
  return Math.hypot(a.x - b.x, a.y - b.y);
};
const tickStep = (pxPerS) => [0.1, 0.5, 1, 2, 5, 10, 30, 60, 300].find((step) => step * pxPerS > 64) ?? 600;

/** Where notes were given, as spans of time. */
export function givenSpans(notes) {
  const spans = [];
  for (const note of notes) {
    const last = spans[spans.length - 1];
    if (!note.given) {
      if (last) last.open = false;
    } else if (last?.open) last.end = Math.max(last.end, note.end);
    else spans.push({start: spans.length ? note.start : 0, end: note.end, open: true});
  }
  return spans;
}

/** The whole piece in a strip: where the window is, and a way to move it. */
export class Overview extends Emitter {
  /** @param {HTMLCanvasElement} canvas @param {Roll} roll */
  constructor(canvas, roll) {
    super();
    this.canvas = canvas;
    this.roll = roll;
    new ResizeObserver(() => this.draw()).observe(canvas);
    const seek = ({clientX, buttons, type}) => {
      if (type === 'pointermove' && !buttons) return;
      const share = (clientX - canvas.getBoundingClientRect().left) / canvas.clientWidth;
      this.emit('seek', Math.max(0, share) * this.length);
    };
    canvas.addEventListener('pointerdown', seek);
    canvas.addEventListener('pointermove', seek);
  }

  get length() { return Math.max(30, this.roll.length); }

  draw() {
    const {canvas, roll} = this;
    const {clientWidth: width, clientHeight: height} = canvas;
    if (!width) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const c = canvas.getContext('2d');
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.fillStyle = roll.theme.black;
    c.fillRect(0, 0, width, height);
    paintNotes(c, roll.piece.notes, roll.theme, {from: 0, to: this.length, width, height, low: roll.low, high: roll.high});
    c.fillStyle = roll.theme.mark;
    c.fillRect((roll.start / this.length) * width, 0, Math.max(3, (roll.seconds / this.length) * width), height);
    c.fillStyle = roll.theme.accent;
    c.fillRect((roll.position / this.length) * width, 0, 2, height);
  }
}

/** Small notes in a small picture. */
export function paintNotes(c, notes, theme, {from, to, width, height, low, high}) {
  const scale = width / (to - from);
  const lane = height / (high - low + 1);
  for (let n = firstFrom(notes, from); n < notes.length && notes[n].start < to; n++) {
    const note = notes[n];
    c.fillStyle = (note.given ? theme.given : theme.ramp)[shade(note.velocity)];
    c.fillRect((note.start - from) * scale, (high - note.pitch) * lane, Math.max(1, (note.end - note.start) * scale), Math.max(1.5, lane));
  }
}
