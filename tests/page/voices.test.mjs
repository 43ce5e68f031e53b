// A model that Python exported: the same likelihoods, the same music from the same seed, streams as the page uses them.

import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import test from 'node:test';

import {bytes, engine, json, notes, rows} from './vectors.mjs';

const {openModel} = await engine('session.js');
const {Player} = await engine('voices.js');

const N_EVENTS = 389;
const folder = (name) => (file) => {
  const from = file.endsWith('.wasm.gz') ? join(process.env.ENGINE, 'onnxruntime') : join(process.env.VECTORS, name);
  return Promise.resolve(new Uint8Array(readFileSync(join(from, file))));
};
const loaded = new Map();
const model = (name) => {
  if (!loaded.has(name)) loaded.set(name, openModel(folder(name)));
  return loaded.get(name);
};
const floats = (name) => new Float32Array(bytes(name).slice().buffer);

const models = json('models.json');
for (const {name, tokens, steps, tolerance, score, prompt, about, shortest} of models) {
  test(`${name}: likelihoods, token by token and in chunks`, async () => {
    const {about: told, config} = await model(name);
    assert.deepEqual([told, config.shortestSeconds], [about, shortest]);
    const session = (await model(name)).begin(), expected = floats(`${name}.logits`);
    let place = 0, row = 0, furthest = 0;
    for (const to of [...steps, tokens.length]) {
      const single = row > 0 && to - place === 1;
      while (place < to) {
        const length = single || place < steps[0] ? 1 : session.next(to - place);
        const logits = (await session.read(tokens.slice(place, place + length))).subarray(-N_EVENTS);
        place += length;
        if (place !== to) continue;
        const wanted = expected.subarray(row * N_EVENTS, (row + 1) * N_EVENTS);
        logits.forEach((logit, i) => { furthest = Math.max(furthest, Math.abs(logit - wanted[i])); });
        row += 1;
      }
    }
    assert.equal(row * N_EVENTS, expected.length);
    assert.equal(session.position, tokens.length);
    assert.ok(furthest < tolerance, `${furthest} apart`);
    session.close();
  });

  test(`${name}: how likely music is`, async () => {
    const {ask} = await player(name);
    for (const {from, to, nats} of score) {
      const told = await ask({op: 'score', notes: notes(prompt), pedals: [], from, to});
      if (nats === null) assert.equal(told.nats, null);
      else assert.ok(Math.abs(told.nats - nats) < 1e-3, `${told.nats}, not ${nats}`);
    }
  });
}

/** A player, and what it has told by stream; `ask` waits for the answer to one message, `rest` until nothing plays. */
async function player(name) {
  const told = new Map(), waiting = new Map();
  const playing = new Player(await model(name), ({id, ...message}) => {
    told.get(id).push(message);
    waiting.get(id)?.(message);
  });
  let last = 0;
  const send = (message) => {
    const id = message.id ?? ++last;
    if (!told.has(id)) told.set(id, []);
    playing.take({...message, id});
    return id;
  };
  const ask = (message) => new Promise((resolve) => {
    waiting.set(last + 1, resolve);
    send(message);
  });
  const rest = async () => {
    while (playing.busy) await new Promise((resolve) => { setTimeout(resolve, 5); });
  };
  const heard = (id) => rows(told.get(id).flatMap((message) => message.notes ?? []));
  return {playing, told, send, ask, rest, heard};
}

for (const {name, music} of models.filter(({music}) => music)) {
  const {seed, sampling, changed, told: asked, toldLater, prompt, first, until, expected, ended, sounding} = music;
  const start = {op: 'start', notes: notes(prompt), pedals: [], seed, sampling, told: asked};

  test(`${name}: the music that Python plays from this seed, and forks of it`, async () => {
    const {told, send, rest, heard} = await player(name);
    const [one, other] = [send(start), send({...start, seed: seed + 1})];
    const twin = send({op: 'fork', from: other, seed});
    for (const id of [one, twin, other]) send({op: 'advance', id, until: first});
    await rest();
    for (const id of [one, twin]) {
      send({op: 'sampling', id, sampling: changed});
      send({op: 'told', id, told: toldLater});
    }
    const late = send({op: 'fork', from: one, seed: 5});
    send({op: 'sampling', id: late, sampling: {temperature: 1}});
    for (const id of [one, twin, late]) send({op: 'advance', id, until});
    await rest();
    for (const id of [one, twin]) {
      assert.deepEqual(sorted(heard(id)), expected);
      assert.equal(told.get(id).at(-1).op, ended ? 'end' : 'notes');
      const last = told.get(id).findLast(({op}) => op === 'notes');
      assert.deepEqual(rows(last.sounding).sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2]), sounding);
    }
    assert.ok(heard(late).length && heard(late).every(([, end]) => end >= first));
    assert.notDeepEqual(sorted(heard(late)), expected.filter(([, end]) => end >= first));
    assert.notDeepEqual(heard(other), heard(one).slice(0, heard(other).length));
  });

  test(`${name}: music goes on from the time that is asked for; what is told is final and in order`, async () => {
    const {told, send, rest, heard} = await player(name);
    const cut = prompt.at(-1)[0], later = prompt.at(-1)[1] + 3;
    for (const from of [cut, later]) {
      const id = send({...start, from});
      send({op: 'advance', id, until: later + 60});
      await rest();
      assert.ok(heard(id).length > 3);
      let upTo = 0;
      for (const message of told.get(id)) {
        assert.ok(message.upTo >= upTo);
        for (const [begin] of rows(message.notes ?? [])) assert.ok(begin >= Math.max(upTo, from - 1e-9));
        upTo = message.upTo;
      }
      assert.ok(upTo >= from - 1e-9);
    }
  });

  test(`${name}: what is closed plays no more; mistakes are told`, async () => {
    const {playing, told, send, rest} = await player(name);
    const id = send(start);
    send({op: 'advance', id, until: 1e9});
    await new Promise((resolve) => { setTimeout(resolve, 100); });
    send({op: 'close', id});
    const count = told.get(id).length;
    await rest();
    assert.equal(told.get(id).length, count);
    assert.equal(playing.tasks.size, 0);
    const {wasm} = playing.model.runtime, kept = {memory: 0, values: 0};
    const counted = (name, what, step) => {
      const call = wasm[name];
      wasm[name] = (...values) => { kept[what] += step; return call(...values); };
    };
    counted('_malloc', 'memory', 1);
    counted('_free', 'memory', -1);
    counted('_OrtCreateTensor', 'values', 1);
    counted('_OrtReleaseTensor', 'values', -1);
    const left = send(start);
    await rest();
    assert.ok(kept.memory > 0 && kept.values > 0);
    send({op: 'close', id: left});
    assert.deepEqual(kept, {memory: 0, values: 0});
    for (const bad of [{...start, seed: -1}, {...start, sampling: {topP: 2}}, {...start, told: {'composer=nobody': 1}}, {op: 'fork', from: id, seed: 1}]) {
      const wrong = send(bad);
      await rest();
      assert.equal(told.get(wrong).at(-1).op, 'error');
    }
  });
}

const sorted = (played) => [...played].sort((a, b) => a[0] - b[0] || a[2] - b[2]);
