// Which events may come next, token by token. The rules are those of `ritornello.codec.grammar`.

import {
  END, MAX_SHIFT_STEPS, N_EVENTS, N_PITCHES, N_VELOCITY_BINS, NOTE_OFF, SHIFT, VELOCITY,
} from './codec.js';

export class Grammar {
  sounding = new Uint8Array(N_PITCHES); // keys struck and not yet released
  floorOn = -1; // only pitches above it may be struck now,
  floorOff = -1; // and only pitches above it released
  velocity = -1; // the current bin, or -1 before the first
  afterVelocity = false;
  mayShift = true;
  mayEnd = true;

  get anySounds() {
    return this.sounding.includes(1);
  }

  /** (N_EVENTS) 1 for every event that may come next. */
  legal() {
    const legal = new Uint8Array(N_EVENTS);
    const free = !this.afterVelocity;
    let strikable = false;
    for (let pitch = 0; pitch < N_PITCHES; pitch++) {
      if (this.sounding[pitch]) {
        legal[NOTE_OFF + pitch] = Number(free && pitch > this.floorOff);
      } else if (pitch > this.floorOn) {
        strikable = true;
        legal[pitch] = Number(this.velocity >= 0);
      }
    }
    if (!free) return legal;
    if (this.mayShift) legal.fill(1, SHIFT, SHIFT + MAX_SHIFT_STEPS);
    if (strikable) legal.fill(1, VELOCITY, VELOCITY + N_VELOCITY_BINS);
    if (this.velocity >= 0) legal[VELOCITY + this.velocity] = 0;
    legal[END] = Number(this.mayEnd && !this.anySounds);
    return legal;
  }

  /** Takes one event, legal or not. */
  advance(token) {
    if (token >= END) return;
    this.afterVelocity = token >= VELOCITY;
    this.mayShift = !(token >= SHIFT && token < SHIFT + MAX_SHIFT_STEPS - 1);
    this.mayEnd = !(token >= SHIFT && token < VELOCITY);
    if (token < NOTE_OFF) {
      this.sounding[token] = 1;
      [this.floorOn, this.floorOff] = [token, N_PITCHES];
    } else if (token < SHIFT) {
      this.sounding[token - NOTE_OFF] = 0;
      [this.floorOn, this.floorOff] = [-1, token - NOTE_OFF];
    } else if (token < VELOCITY) {
      [this.floorOn, this.floorOff] = [-1, -1];
    } else {
      this.velocity = token - VELOCITY;
    }
  }

  fork() {
    const twin = Object.assign(new Grammar(), this);
    twin.sounding = this.sounding.slice();
    return twin;
  }
}
