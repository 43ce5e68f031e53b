// The duet: every scenario goes as it went in Python. The model is the test's own, which plays a phrase again and again.
// And takes: when they may end.

import assert from 'node:assert/strict';
import test from 'node:test';

import {engine, json} from './vectors.mjs';

const {END, NOTE_OFF, N_EVENTS, SHIFT, VELOCITY} = await engine('codec.js');
const {Duet} = await engine('duet.js');
const {Random} = await engine('random.js');
const {complete} = await engine('sampling.js');
const {Take} = await engine('take.js');

const {phrase, duets} = json('duets.json');

class Session {
  constructor(tokens = []) { this.tokens = tokens; }
  next(tokens) { return tokens; }
  readNow(tokens) {
    this.tokens.push(...tokens);
    const at = this.tokens.lastIndexOf(phrase[0]);
    const logits = Float32Array.from({length: N_EVENTS}, (_, i) => -100 * i);
    logits[phrase[at < 0 ? 0 : (this.tokens.length - at) % phrase.length]] = 1000;
    return logits;
  }
  fork() { return new Session([...this.tokens]); }
  close() {}
}

const model = {config: {}, begin: () => new Session()};

duets.forEach(({messages, options, turns, keys, heard, notes, pedals}, n) => {
  test(`scenario ${n}: ${JSON.stringify(options)}`, () => {
    let now = 0;
    const sent = [], whose = [];
    const send = (pitch, velocity, at) => sent.push([now, pitch, velocity, at]);
    const duet = new Duet(model, send, {random: new Random(1), sampling: complete(), told: new Float32Array(0), ...options});
    const until = (time) => {
      while (now < time) {
        const wait = duet.tick(now);
        if (wait > 0) now = Math.min(time, now + wait);
      }
      while (duet.tick(time) === 0);
    };
    for (const [time, message] of messages) {
      if (!message.length) { // nobody has looked at the clock
        now = time;
        continue;
      }
      until(time);
      duet.obey(time, message);
      whose.push([duet.playing, duet.plan.length]);
    }
    until(messages.at(-1)[0] + 2);
    duet.finish(now);
    assert.deepEqual(whose, turns);
    assert.deepEqual(sent, keys);
    assert.deepEqual(duet.heard.session.tokens.slice(1), heard);
    assert.deepEqual(duet.notes.map(({start, end, pitch, velocity, byModel}) => [start, end, pitch, velocity, byModel]), notes);
    assert.deepEqual(duet.pedals, pedals);
  });
});

test('a piece is as long as the shortest that the model learnt from', () => {
  const take = new Take({...model, config: {shortestSeconds: 1.07}}), wait = (steps) => SHIFT + steps - 1;
  take.hear([VELOCITY, 60, wait(50), NOTE_OFF + 60, 61, wait(56), NOTE_OFF + 61]);
  assert.equal(take.legal(true)[END], 0);
  take.hear([62, wait(1), NOTE_OFF + 62]);
  assert.equal(take.legal(true)[END], 1);
  assert.equal(take.legal(false)[END], 0);
});

test('nothing happens for no longer than people make it: at first, while a key sounds, in silence', () => {
  const longest = (tokens) => { // in steps
    const take = new Take(model);
    take.hear(tokens);
    return 1 + take.legal(true).slice(SHIFT, VELOCITY).lastIndexOf(1);
  };
  const second = SHIFT + 99, held = [VELOCITY, 60], silent = [...held, second, NOTE_OFF + 60];
  assert.deepEqual([7, 8].map((n) => longest(Array(n).fill(second))), [100, 0]);
  assert.deepEqual([8, 9].map((n) => longest([...held, ...Array(n).fill(second)])), [100, 0]);
  assert.deepEqual([3, 4].map((n) => longest([...silent, ...Array(n).fill(second)])), [100, 50]);
});

test('a key is held no longer than people do: it is let go, the lowest first, as soon as the grammar allows', () => {
  const legal = (tokens, silentUntil = 0) => {
    const take = new Take(model);
    take.hear(tokens, silentUntil);
    const may = take.legal(true);
    return [...may.keys()].filter((token) => may[token] && (token < VELOCITY));
  };
  const second = SHIFT + 99, strikes = (key) => [second, second, second, second, key];
  const held = [VELOCITY, 60, 62, ...[64, 65, 66, 67, 68, 69, 70, 71, 72].flatMap(strikes), second]; // 37 s
  const shifts = (tokens) => tokens.filter((token) => token >= SHIFT);
  assert.deepEqual(shifts(legal([...held, SHIFT + 49])), []);
  assert.deepEqual(shifts(legal([...held, SHIFT + 49, 90])).at(-1), SHIFT + 49);
  assert.deepEqual(legal([...held, second]), [NOTE_OFF + 60]);
  assert.deepEqual(legal([...held, second, NOTE_OFF + 60]), [NOTE_OFF + 62]);
  assert.ok(legal([...held, second, NOTE_OFF + 60, NOTE_OFF + 62]).length > 100);
  assert.deepEqual(shifts(legal([...held, second, 90])), [SHIFT]);
  assert.deepEqual(legal([...held, second], 4_100), [second]);
});
