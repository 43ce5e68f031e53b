// Those who tell others what happens to them.

export class Emitter {
  constructor() {
    /** @type {Object<string, Function[]>} */
    this.listeners = {};
  }

  /** Has `listener` called with what `emit` is given. @param {string} event @param {(detail?: any) => void} listener */
  on(event, listener) {
    (this.listeners[event] ??= []).push(listener);
  }

  /** @param {string} event @param {any} [detail] */
  emit(event, detail) {
    for (const listener of this.listeners[event] ?? []) listener(detail);
  }
}
