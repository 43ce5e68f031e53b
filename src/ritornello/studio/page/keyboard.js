// What hands play: the keyboard on the page, the letters of the computer's, and instruments by WebMIDI.

import {Emitter} from './emitter.js';
import {isBlack, keyName} from './music.js';

const LOW = 21, HIGH = 108;
const LETTERS = 'awsedftgyhujkolp;'; // from C upwards, as black and white keys lie
const VELOCITY = 76; // of letters
const PEDAL = 64;

/** Fires `strike` (detail: {pitch, velocity}), `release` (detail: {pitch}) and `pedal` (detail: {down}). */
export class Hands extends Emitter {
  /** @param {HTMLElement} element */
  constructor(element) {
    super();
    this.element = element;
    this.octave = 60;
    this.down = new Set();
    this.lit = new Map(); // pitch -> class
    this.keys = new Map();
    this.access = null;
    this.input = null;
    this.output = null;
    this.build();
    this.listen();
  }

  build() {
    const board = document.createElement('div');
    board.id = 'keyboard';
    board.setAttribute('aria-hidden', 'true');
    const width = 100 / 52;
    let white = 0;
    for (let pitch = LOW; pitch <= HIGH; pitch++) {
      const key = document.createElement('div');
      key.className = isBlack(pitch) ? 'key black' : pitch % 12 ? 'key' : 'key c';
      key.dataset.pitch = String(pitch);
      key.dataset.name = keyName(pitch);
      key.style.left = `${(isBlack(pitch) ? white - 0.31 : white) * width}%`;
      key.style.width = `${(isBlack(pitch) ? 0.62 : 1) * width}%`;
      if (!isBlack(pitch)) white++;
      this.keys.set(pitch, key);
      board.append(key);
    }
    this.element.append(board);
    requestAnimationFrame(() => { this.element.scrollLeft = (board.offsetWidth - this.element.clientWidth) * 0.52; });
  }

  listen() {
    const pointers = new Map();
    /** @returns {any} */
    const keyAt = ({clientX, clientY}) => document.elementFromPoint(clientX, clientY)?.closest?.('.key');
    const press = (event) => {
      const key = keyAt(event);
      const pitch = key ? Number(key.dataset.pitch) : null;
      if (pointers.get(event.pointerId) === pitch) return;
      this.let(pointers.get(event.pointerId));
      pointers.set(event.pointerId, pitch);
      if (!key) return;
      const box = key.getBoundingClientRect();
      this.press(pitch, Math.round(40 + 70 * Math.min(1, Math.max(0, (event.clientY - box.top) / box.height))));
    };
    this.element.addEventListener('pointerdown', (event) => {
      if (event.button > 0) return;
      press(event);
    });
    this.element.addEventListener('pointermove', (event) => {
      if (pointers.has(event.pointerId) && event.pointerType === 'mouse') press(event);
    });
    for (const type of ['pointerup', 'pointercancel']) {
      window.addEventListener(type, (/** @type {any} */ event) => {
        this.let(pointers.get(event.pointerId));
        pointers.delete(event.pointerId);
      });
    }
    this.element.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const key = event.key.toLowerCase();
      const place = LETTERS.indexOf(key);
      if (place >= 0 || key === 'z' || key === 'x') {
        event.preventDefault();
        event.stopPropagation();
      }
      if (event.repeat) return;
      if (key === 'shift') this.emit('pedal', {down: true});
      else if (key === 'z') this.octave = Math.max(24, this.octave - 12);
      else if (key === 'x') this.octave = Math.min(84, this.octave + 12);
      else if (place >= 0) this.press(this.octave + place, VELOCITY);
    });
    this.element.addEventListener('keyup', (event) => {
      if (event.key === 'Shift') this.emit('pedal', {down: false});
      const place = LETTERS.indexOf(event.key.toLowerCase());
      if (place >= 0) for (const pitch of [...this.down]) if ((pitch - this.octave - place) % 12 === 0) this.let(pitch);
    });
    this.element.addEventListener('blur', () => this.letAll());
    window.addEventListener('blur', () => this.letAll());
  }

  press(pitch, velocity) {
    if (pitch < 0 || pitch > 127) return;
    this.down.add(pitch);
    this.light(pitch);
    this.emit('strike', {pitch, velocity});
  }

  let(pitch) {
    if (!this.down.delete(pitch)) return;
    this.light(pitch);
    this.emit('release', {pitch});
  }

  letAll() {
    this.emit('pedal', {down: false});
    for (const pitch of [...this.down]) this.let(pitch);
  }

  /** Lights the keys that sound. */
  show(notes) {
    const now = new Set(notes.map(({pitch}) => pitch));
    const changed = [...this.lit.keys()].filter((pitch) => !now.has(pitch));
    for (const pitch of changed) this.lit.delete(pitch);
    for (const pitch of now) if (!this.lit.has(pitch)) {
      this.lit.set(pitch, true);
      changed.push(pitch);
    }
    for (const pitch of changed) this.light(pitch);
  }

  light(pitch) {
    const classes = this.keys.get(pitch)?.classList;
    classes?.toggle('sounds', this.lit.has(pitch));
    classes?.toggle('mine', this.down.has(pitch));
  }

  // ---- WebMIDI ----

  /** Asks the browser for MIDI ports; false where it has none to give. `onPorts` is called when they change. */
  async connect(onPorts) {
    if (!navigator.requestMIDIAccess) return false;
    if (!this.access) {
      this.access = await navigator.requestMIDIAccess();
      this.access.onstatechange = () => {
        this.choose(this.input?.id, this.output?.id);
        onPorts();
      };
    }
    return true;
  }

  get inputs() { return this.access ? [...this.access.inputs.values()] : []; }
  get outputs() { return this.access ? [...this.access.outputs.values()] : []; }

  choose(inputId, outputId) {
    if (this.input) this.input.onmidimessage = null;
    this.letAll();
    this.input = this.inputs.find(({id}) => id === inputId) ?? null;
    if (this.input) this.input.onmidimessage = ({data}) => this.take(data);
    const output = this.outputs.find(({id}) => id === outputId) ?? null;
    if (this.output && this.output !== output) this.quiet();
    this.output = output;
  }

  /** @param {Uint8Array} message */
  take(message) {
    const [status, first, second] = message;
    const kind = status & 0xf0;
    if (kind === 0x90 && second) this.press(first, second);
    else if (kind === 0x80 || kind === 0x90) this.let(first);
    else if (kind === 0xb0 && first === PEDAL) {
      this.emit('pedal', {down: second >= 64});
    }
  }

  /** Sends a note to the chosen output; `after` and `until` are seconds from now. */
  send(pitch, velocity, after, until) {
    const now = performance.now();
    this.output?.send([0x90, pitch, velocity], now + after * 1000);
    if (until < Infinity) this.output?.send([0x80, pitch, 0], now + until * 1000);
  }

  /** Strikes a key at the chosen output in `after` seconds, so that it can be cut before: what was sent cannot. */
  play = (pitch, velocity, after) => {
    const waiting = [setTimeout(() => this.send(pitch, velocity, 0, Infinity), after * 1000)];
    const off = () => this.send(pitch, 0, 0, 0);
    return {
      release: (later) => waiting.push(setTimeout(off, later * 1000)),
      cut: () => {
        waiting.forEach(clearTimeout);
        off();
      },
    };
  };

  /** Everything off at the chosen output. */
  quiet() {
    this.output?.clear?.();
    for (const controller of [123, 120, 64]) this.output?.send([0xb0, controller, 0]);
    for (let pitch = LOW; pitch <= HIGH; pitch++) this.output?.send([0x80, pitch, 0]);
  }
}
