// The studio: wires the session, the maker, the roll, the piano and what hands do.

import {Duet} from './duet.js';
import {MidiError, readMidi} from './engine/midi.js';
import {Hands} from './keyboard.js';
import {Maker} from './maker.js';
import {NOTHING, clock, counted, endOf} from './music.js';
import {Piano, Samples} from './piano.js';
import {Overview, Roll, paintNotes} from './roll.js';
import {download, fileName, midiOf, pngOf, svgOf, wavOf} from './saving.js';
import {SAMPLING, Session, leave, save, saved} from './session.js';
import {Transport} from './transport.js';

const LEAD_S = 2; // of what stands before, heard before what is played anew
const REST_S = 0.1; // before the first note of new music
const SAVE_MS = 1500, GROWN_MS = 5000, RETRY_MS = 2000, WAYS_MS = 100;
const MOST_FILE_BYTES = 32 * 2 ** 20;

/** @returns {any} */
const $ = (id) => document.getElementById(id);

const session = new Session();
const context = new AudioContext({latencyHint: 'interactive'});
const samples = new Samples();
const piano = new Piano(context, samples);
const hands = new Hands($('keys'));
const roll = new Roll($('roll'));
const overview = new Overview($('overview'), roll);
const transport = new Transport(context, (note, when, release) => {
  if (hands.output) hands.send(note.pitch, note.velocity, when - context.currentTime, release - context.currentTime);
  const voice = hands.output ? null : piano.strike(note.pitch, note.velocity, when, release);
  return {release: (time, fade) => (hands.output ? hands.send(note.pitch, 0, 0, 0) : voice?.release(time, fade, true))};
});
const maker = new Maker(session, () => transport.position);
let wantedBack = false; // it played when the player went
transport.limit = () => {
  if (!maker.choice && (wantedBack || !session.piece.notes.length)) return endOf(session.piece);
  return maker.limit();
};
transport.growing = () => maker.growing || wantedBack;

const duet = new Duet((pitch, velocity, after) => (hands.output ? hands.play : played)(pitch, velocity, after));
let recording = null; // {time: of the context when second `from` was, from, open: Map, pedal}
let told = 0;
let fresh = true; // nobody has done anything yet

// ---- what is shown ----

function say(text, trouble = false) {
  const status = $('status');
  status.textContent = text;
  status.classList.toggle('trouble', trouble);
  told = trouble ? Infinity : performance.now() + 6000;
}

/** Runs what a button does; what goes wrong is said. */
const doing = (act) => async (...given) => {
  try {
    await act(...given);
  } catch (error) {
    say(sentence(error.message), true);
  }
};

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');

function showPiece() {
  const {choice} = maker;
  const piece = maker.shown;
  roll.setPiece(piece, choice && {from: choice.from, to: choice.to});
  transport.setPiece(piece);
  overview.draw();
  showState();
}

function showState() {
  const {piece, past, future} = session;
  const empty = !piece.notes.length && !maker.choice && !recording;
  const together = Boolean(duet.stream);
  const {region} = roll;
  fresh &&= !transport.playing && !recording && !together && !past.length && !piece.notes[0]?.given;
  $('undo').disabled = !past.length;
  $('redo').disabled = !future.length;
  $('welcome').hidden = !fresh;
  $('on').setAttribute('aria-pressed', String(Boolean(maker.live) && !fresh));
  for (const id of ['again', 'ways']) $(id).disabled = empty;
  $('fill').disabled = !region || empty;
  $('keep').disabled = !region;
  const kept = region && piece.kept.some(({start, end}) => start <= region.start && end >= region.end);
  $('keep').setAttribute('aria-pressed', String(Boolean(kept)));
  $('keep').textContent = kept ? 'Let go' : 'Keep';
  $('title').value = piece.title;
  document.title = piece.title ? `${piece.title} · Ritornello` : 'Ritornello Studio';
  $('play').classList.toggle('playing', transport.playing);
  $('play').classList.toggle('waiting', transport.waiting);
  $('play').setAttribute('aria-label', transport.playing ? 'Pause' : 'Play');
  $('loop').setAttribute('aria-pressed', String(Boolean(transport.loop)));
  $('record').setAttribute('aria-pressed', String(Boolean(recording)));
  $('jam').setAttribute('aria-pressed', String(together));
  $('duet').hidden = !together;
  $('turn').classList.toggle('model', duet.playing);
  const whose = duet.playing ? 'The model plays' : duet.first === null ? 'Play: it listens' : 'You play';
  if ($('turn').textContent !== whose) $('turn').textContent = whose;
  const count = maker.shown.notes.length;
  $('roll').setAttribute('aria-label', `Piano roll: ${counted(count, 'notes')} in ${clock(roll.length)}`);
  showTime();
}

function showTime() {
  const position = duet.stream ? duet.position ?? duet.from : transport.position;
  const text = `${clock(position)} / ${clock(roll.length)}`;
  if ($('time').textContent !== text) $('time').textContent = text;
}

/** The ways that can be chosen from, as cards that are listened to. */
function showChoice() {
  const {choice} = maker;
  const box = $('choice');
  box.hidden = !choice;
  if (!choice) return box.replaceChildren();
  const drawn = choice.label === 'a bridge' && !choice.ranked ? choice.ways.length : Math.min(4, choice.ways.length);
  if (box.querySelectorAll('.way').length !== drawn) {
    const cards = choice.ways.slice(0, drawn).map((_, n) => {
      const card = document.createElement('button');
      card.className = 'way';
      card.append(document.createElement('canvas'), document.createElement('span'));
      card.addEventListener('click', () => listen(n));
      return card;
    });
    const decide = document.createElement('div');
    decide.className = 'decide';
    const accept = Object.assign(document.createElement('button'), {id: 'accept', className: 'primary', textContent: 'Take it', title: 'Enter'});
    const reject = Object.assign(document.createElement('button'), {id: 'reject', className: 'quiet', textContent: 'Drop all', title: 'Esc'});
    accept.addEventListener('click', take);
    reject.addEventListener('click', drop);
    decide.append(accept, reject);
    box.replaceChildren(...cards, decide);
    box.classList.toggle('many', drawn > 4);
  }
  box.querySelectorAll('.way').forEach((card, n) => {
    const way = choice.ways[n];
    card.setAttribute('aria-pressed', String(n === choice.current));
    const [name, note] = [document.createElement('b'), document.createElement('i')];
    name.textContent = `${n + 1}`;
    const whole = choice.to === null || way.ended;
    note.textContent = way.nats !== null ? `${way.nats.toFixed(2)} nats` : whole ? counted(way.notes.length, 'notes') : 'being made';
    if (choice.ranked && n === 0 && way.nats !== null) note.textContent += ' · fits best';
    card.lastChild.replaceChildren(name, note);
    card.setAttribute('aria-label', `Way ${n + 1}: ${note.textContent}`);
    drawWay(card.firstChild, way, choice);
  });
  const current = choice.ways[choice.current];
  $('accept').disabled = choice.to !== null && !current.ended;
}

function drawWay(canvas, way, {from, to}) {
  const {clientWidth: width, clientHeight: height} = canvas;
  const ratio = window.devicePixelRatio || 1;
  Object.assign(canvas, {width: width * ratio, height: height * ratio});
  const c = canvas.getContext('2d');
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.fillStyle = roll.theme.black;
  c.fillRect(0, 0, width, height);
  const until = to ?? Math.max(from + 12, way.upTo);
  paintNotes(c, way.notes, roll.theme, {from, to: until, width, height, low: roll.low, high: roll.high});
}

// ---- what is done ----

const begin = doing(async (seed = Math.floor(Math.random() * 2 ** 31)) => {
  await stopHands();
  save(session).catch(() => {});
  transport.pause();
  transport.seek(0);
  roll.setRegion(null);
  Object.assign(roll, {start: 0, follow: true});
  await maker.begin(seed, session);
});

const play = doing(async () => {
  if (transport.playing) return transport.pause();
  await stopHands();
  await arriving;
  if (!session.piece.notes.length && !maker.live && !maker.choice) await maker.begin(session.seed, session);
  roll.follow = true;
  skipRest();
  if (!maker.growing && transport.position >= endOf(maker.shown)) transport.seek(0);
  await transport.play();
});

/** Nobody waits for the first note of new music. */
function skipRest() {
  if (transport.position) return;
  const [first] = maker.whole.notes; // one that was struck before others may sound still
  if (first && !first.given) transport.seek(Math.max(0, first.start - REST_S));
}

const goOn = doing(async () => {
  await stopHands();
  if (maker.live) {
    maker.stop();
    return say('It stops where it is.');
  }
  if (maker.choice) return;
  await maker.goOn();
  const end = endOf(session.piece);
  if (transport.position > end || !transport.playing) transport.seek(Math.max(0, end - LEAD_S));
  roll.follow = true;
  await transport.play();
  say(end ? `It goes on from ${clock(end)}.` : '');
});

const again = doing(async () => {
  await stopHands();
  const from = transport.position;
  await maker.again(from);
  await lead(from);
  if (!maker.choice) say(`Played anew from ${clock(from)}. Undo brings back what was there.`);
});

const ways = doing(async () => {
  await stopHands();
  const from = transport.position;
  await maker.ways(from);
  await lead(from);
  say('Four ways on: 1 to 4 to listen, Enter to take one, Esc to drop all.');
});

const fill = doing(async () => {
  await stopHands();
  const {region} = roll;
  if (!region) return;
  transport.seek(Math.max(0, region.start - LEAD_S));
  say('Bridges are drawn, then ranked by how well what follows fits.');
  const made = maker.bridge(region);
  roll.setRegion(null);
  await made;
  if (maker.choice?.ranked) say('The bridges are ranked: less nats, less surprise in what follows.');
});

async function lead(from) {
  transport.seek(Math.max(0, from - LEAD_S));
  roll.follow = true;
  await transport.play();
}

const keep = doing(() => {
  if (roll.region) say(session.keep(roll.region) ? 'Kept: nothing plays this part anew.' : 'No longer kept.');
});

function listen(number) {
  const {choice} = maker;
  if (!choice?.ways[number]) return;
  maker.listen(number);
  if (transport.position > choice.from) transport.seek(Math.max(0, choice.from - LEAD_S / 2));
}

function take() {
  if (!maker.choice) return;
  maker.accept();
  if (!maker.choice) say('Taken. Undo brings back what was there.');
}

const drop = doing(async () => {
  if (!maker.choice) return;
  const {from} = maker.choice;
  transport.pause();
  transport.seek(from);
  say('Dropped: the piece is what it was.');
  await maker.drop();
});

const step = doing(async (direction) => {
  await stopHands();
  maker.stop();
  const label = session[direction]();
  if (label) say(`${direction === 'undo' ? 'Undone' : 'Done again'}: ${label}.`);
});

function loop() {
  if (transport.loop) transport.loop = null;
  else {
    const span = roll.region ?? {start: 0, end: endOf(maker.shown)};
    if (span.end - span.start < 0.2) return;
    transport.loop = span;
    if (transport.position < span.start || transport.position >= span.end) transport.seek(span.start);
  }
  showState();
}

// ---- hands ----

const held = new Map();
let pedal = false;

hands.on('strike', ({pitch, velocity}) => {
  context.resume();
  held.get(pitch)?.release(context.currentTime);
  duet.strikes(pitch, velocity);
  if (!duet.calls(pitch)) held.set(pitch, piano.strike(pitch, velocity));
  if (recording) {
    recording.time ??= context.currentTime;
    recording.open.set(pitch, {velocity, start: recorded()});
  }
});
hands.on('release', ({pitch}) => {
  if (!pedal) held.get(pitch)?.release(context.currentTime);
  duet.releases(pitch);
  const open = recording?.open.get(pitch);
  if (!open) return;
  recording.open.delete(pitch);
  session.grow([Object.freeze({pitch, ...open, end: Math.max(open.start + 0.02, recorded()), given: true})]);
});
hands.on('pedal', ({down}) => {
  pedal = down;
  duet.pedals(down);
  if (!down) for (const [pitch, voice] of held) if (!hands.down.has(pitch)) voice?.release(context.currentTime);
  if (!recording || recording.time === undefined) return;
  if (down) recording.pedal = recorded();
  else if (recording.pedal !== undefined) {
    session.piece.pedals = [...session.piece.pedals, {start: recording.pedal, end: recorded()}];
    recording.pedal = undefined;
    roll.setPiece(session.piece);
  }
});

const recorded = () => recording.from + context.currentTime - recording.time;

const record = doing(async () => {
  await stopDuet();
  if (recording) {
    stopRecording();
    return say('Recorded. Play on goes on from it.');
  }
  transport.pause();
  maker.stop();
  const end = endOf(session.piece);
  session.change('what you played', session.piece);
  recording = {from: end ? end + 0.5 : 0, time: undefined, open: new Map(), pedal: undefined};
  roll.follow = true;
  $('keys').focus();
  say('Play: on a MIDI keyboard, on the keys below, or with the letters A to L.');
  showState();
});

function stopRecording() {
  if (!recording) return;
  hands.letAll();
  if (recording.pedal !== undefined) hands.emit('pedal', {down: false});
  const end = endOf(session.piece);
  recording = null;
  transport.seek(end);
  showPiece();
}

/** Strikes a key of the model's on the piano here. */
function played(pitch, velocity, after) {
  const voice = piano.strike(pitch, velocity, context.currentTime + after);
  return {
    release: (later) => voice?.release(context.currentTime + later),
    cut: () => voice?.release(context.currentTime, 0.03, true),
  };
}

const together = doing(async () => {
  if (duet.stream) return stopDuet();
  stopRecording();
  transport.pause();
  maker.stop();
  const from = fresh || !endOf(session.piece) ? 0 : endOf(session.piece) + 0.5;
  session.change('a duet', from ? session.piece : NOTHING);
  roll.setRegion(null);
  roll.follow = true;
  await context.resume();
  await duet.begin(maker.needed(), {seed: session.seed, sampling: session.sampling, told: maker.asked}, from);
  $('keys').focus();
  say('Play: on a MIDI keyboard, on the keys below, or with the letters A to L. When you stop, the model goes on.');
});

async function stopDuet() {
  if (!duet.stream) return;
  hands.letAll();
  await duet.end();
}

async function stopHands() {
  stopRecording();
  await stopDuet();
}

duet.on('turn', showState);
duet.on('keys', () => hands.show(duet.sounding));
duet.on('notes', ({notes, pedals}) => {
  session.grow(notes);
  if (!pedals.length) return;
  session.piece.pedals = [...session.piece.pedals, ...pedals];
  roll.setPiece(session.piece);
});
duet.on('end', (error) => {
  transport.seek(endOf(session.piece));
  showPiece();
  if (!error) say('The duet is in the piece: yours and the model\u2019s in colours of their own. Play on goes on from it.');
});

// ---- files ----

const openFile = doing(async (file) => {
  if (!file) return;
  if (file.size > MOST_FILE_BYTES) throw new Error(`${file.name}: larger than ${MOST_FILE_BYTES >> 20} MiB`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const text = new TextDecoder().decode(bytes.subarray(0, 64));
  await stopHands();
  transport.pause();
  try {
    if (text.trimStart().startsWith('{')) return openSession(new TextDecoder().decode(bytes));
    const {notes, pedals, title, mended} = await readMidi(bytes);
    if (!notes.length) throw new Error('it has no notes');
    maker.stop();
    const given = notes.map(({pitch, velocity, start, end}) => Object.freeze({pitch, velocity, start, end, given: true}));
    const name = title || file.name.replace(/\.\w+$/, '');
    if (session.piece.notes.length || session.past.length) session.change(`opened ${file.name}`, {title: name, notes: given, pedals, kept: []});
    else session.begin(session.seed, {title: name, notes: given, pedals, kept: []});
    transport.seek(0);
    roll.fit();
    const things = Object.entries(mended ?? {}).map(([what, count]) => counted(count, what));
    const note = things.length ? ` Mended: ${things.join(', ')}.` : '';
    say(`${name}: ${counted(notes.length, 'notes')}, ${clock(roll.length)}. Play on goes on from its end.${note}`);
  } catch (error) {
    throw error instanceof MidiError || error.message ? new Error(`${file.name}: ${error.message}`) : error;
  }
});

function openSession(text) {
  fresh = false;
  maker.stop();
  session.fromText(text);
  transport.seek(0);
  roll.setRegion(null);
  roll.fit();
  showSampling();
  showTold();
  say('The session is open.');
}

const savers = {
  midi: (piece) => [midiOf(piece, $('pedal').checked), 'mid', 'audio/midi'],
  session: () => [session.toText(), 'ritornello', 'application/json'],
  svg: (piece) => [svgOf(piece), 'svg', 'image/svg+xml'],
  png: async (piece) => [await pngOf(piece), 'png', 'image/png'],
  wav: async (piece) => [await wavOf(piece, samples, (share) => say(`The sound is made: ${Math.round(share * 100)}%.`)), 'wav', 'audio/wav'],
};

const saveAs = doing(async (kind) => {
  $('saving').hidePopover();
  const piece = maker.whole;
  if (!piece.notes.length) throw new Error('there is no music yet');
  const [content, ending, type] = await savers[kind](piece);
  const name = `${fileName(piece.title || `ritornello-${session.seed}`)}.${ending}`;
  download(name, content, type);
  say(`Saved as ${name}.`);
});

$('carry').addEventListener('click', () => saveAs('midi'));
$('carry').addEventListener('dragstart', (event) => {
  const piece = maker.whole;
  if (!piece.notes.length) return event.preventDefault();
  const name = `${fileName(piece.title || `ritornello-${session.seed}`)}.mid`;
  const address = `data:audio/midi;base64,${btoa(Array.from(midiOf(piece, $('pedal').checked), (byte) => String.fromCharCode(byte)).join(''))}`;
  event.dataTransfer.setData('DownloadURL', `audio/midi:${name}:${address}`); // Chromium's way to a file elsewhere
  event.dataTransfer.effectAllowed = 'copy';
});

// ---- seed, sampling and what is told in the address ----

function showAddress() {
  const words = new URLSearchParams({seed: String(session.seed)});
  for (const name of Object.keys(SAMPLING)) if (session.sampling[name] !== SAMPLING[name]) words.set(name, String(session.sampling[name]));
  for (const [label, weight] of Object.entries(session.told)) words.set(label, String(weight));
  history.replaceState(null, '', `#${words}`);
}

function showSampling() {
  for (const name of Object.keys(SAMPLING)) {
    $(name).value = session.sampling[name];
    $(name).previousElementSibling.textContent = String(session.sampling[name]);
  }
}

function setSampling(changes) {
  session.sampling = {...session.sampling, ...changes};
  maker.setSampling(session.sampling);
  duet.stream?.setSampling(session.sampling);
  showSampling();
  showAddress();
}

// ---- what the music is to be ----

const TOLD = ['density', 'loudness', 'register'];
const valuesOf = (label, kind) => (label.startsWith(`${kind}=`) ? [label.slice(kind.length + 1)] : []);

/** What the controls say, as labels and weights. */
function wished() {
  const [first, second, share] = [$('composer').value, $('second').value, Number($('blend').value)];
  const blended = first && second && second !== first;
  return {
    ...Object.fromEntries(TOLD.filter((name) => Number($(name).value)).map((name) => [`${name}=${$(name).value}`, 1])),
    ...(first && {[`composer=${first}`]: blended ? 1 - share : 1}),
    ...(blended && {[`composer=${second}`]: share}),
  };
}

function setTold(changed) {
  session.told = changed;
  maker.setTold();
  duet.stream?.setTold(maker.asked);
  showTold();
  showAddress();
}

/** Shows what is told, where the model can be told it. */
function showTold() {
  const labels = maker.engine?.about.labels ?? [];
  const composers = labels.flatMap((label) => valuesOf(label, 'composer'));
  $('steering').hidden = !labels.length;
  $('composers').hidden = !composers.length;
  const asked = Object.keys(maker.asked);
  for (const name of TOLD) {
    const {low, high} = $(name).dataset, step = Number(asked.flatMap((label) => valuesOf(label, name))[0] ?? 0);
    const words = ['as it likes', `very ${low}`, low, `rather ${low}`, 'in the middle', `rather ${high}`, high, `very ${high}`];
    $(name).value = step;
    $(name).setAttribute('aria-valuetext', words[step]);
    $(name).previousElementSibling.textContent = step ? `${words[step]} · ${step}` : words[step];
  }
  const [first = '', second = ''] = asked.flatMap((label) => valuesOf(label, 'composer'));
  for (const [id, none, value] of [['composer', 'as it likes', first], ['second', 'nobody else', second]]) {
    $(id).replaceChildren(new Option(none, ''), ...composers.filter((name) => id === 'composer' || name !== first).map((name) => new Option(name, name)));
    $(id).value = value;
  }
  $('second').disabled = !first;
  $('blending').hidden = !second;
  if (!second) return;
  const share = session.told[`composer=${second}`], per = (part) => `${Math.round(100 * part)}%`;
  $('blend').value = share;
  const said = `${first} ${per(1 - share)}, ${second} ${per(share)}`;
  $('blend').setAttribute('aria-valuetext', said);
  $('blend').previousElementSibling.textContent = said;
}

// ---- the engine ----

let arriving = null; // the player, for the first time: whoever asks for music before it is there gets it then

async function connect(token) {
  const kind = /** @type {HTMLMetaElement} */ (document.querySelector('meta[name=engine]')).content;
  const {open} = await import(kind === 'local' ? './engine/local.js' : './remote.js');
  maker.engine = await open({token, onLost: (reason) => lost(reason, token)});
  showTold();
  const {name, licence, data, parameters, memoryBytes, stateBytes} = maker.engine.about;
  const size = [parameters && `${(parameters / 1e6).toFixed(1)} million parameters`, memoryBytes && `${(memoryBytes / 1e6).toFixed(1)} MB of weights`,
    stateBytes && `${(stateBytes / 1e6).toFixed(1)} MB of memory for each voice, which never grows`].filter(Boolean).join(', ');
  $('model').textContent = `Model: ${name}; ${size}.${licence ? ` Its weights${data ? ` were trained on ${data} and` : ''} are under ${licence}.` : ''}`;
}

/** The player is gone: what is there can be heard, and it is tried again until it is back. */
async function lost(reason, token) {
  const {live} = maker;
  const wanted = Boolean(live) || wantedBack;
  wantedBack = wanted;
  maker.engine = null;
  maker.stop();
  say(`The player is gone (${reason}). Everything is kept; it is tried again.`, true);
  setTimeout(async () => {
    try {
      await connect(token);
      say('The player is back.');
      wantedBack = false;
      if (wanted) await maker.goOn();
    } catch (error) {
      lost(error.message, token);
    }
  }, RETRY_MS);
}

// ---- wiring ----

session.on('change', () => { showPiece(); showAddress(); });
session.on('growth', (detail) => {
  if (transport.playing) skipRest();
  if (maker.choice) return;
  roll.add(detail);
  overview.draw();
  if ($('again').disabled) showState();
  showTime();
});
let saving = 0;
const saveLater = (after) => {
  saving = setTimeout(() => { saving = 0; save(session).catch(() => {}); }, after);
};
session.on('change', () => { clearTimeout(saving); saveLater(SAVE_MS); });
session.on('growth', () => { if (!saving) saveLater(GROWN_MS); }); // it may grow without a pause
addEventListener('pagehide', () => {
  if (hands.output) hands.quiet();
  stopRecording();
  if (duet.stream) session.sounding = duet.unfinished;
  leave(session);
});
maker.on('choice', () => { showPiece(); showChoice(); });
let showing = 0;
maker.on('ways', () => { // many a second, with several voices
  showing ||= setTimeout(() => {
    showing = 0;
    if (!maker.choice) return;
    showChoice();
    showPiece();
  }, WAYS_MS);
});
maker.on('state', showState);
maker.on('trouble', (detail) => say(sentence(detail.message), true));
transport.on('state', showState);
transport.on('tick', () => {
  const sounding = transport.sounding();
  roll.setPosition(transport.position, sounding);
  hands.show(sounding);
  showTime();
});
setInterval(() => {
  maker.tick();
  const {position = recording?.time !== undefined ? recorded() : null} = duet.stream ? duet : {};
  if (position !== null) roll.setPosition(position, []);
  if (performance.now() > told) say('');
  overview.draw();
}, 250);
(function follow() { // the playhead moves with every frame
  if (transport.playing && !document.hidden) roll.setPosition(transport.position, roll.sounding);
  else if (duet.position !== null && duet.stream && !document.hidden) roll.setPosition(duet.position, []);
  requestAnimationFrame(follow);
})();

const seek = (time) => {
  const there = Math.min(Math.max(0, time), roll.length);
  transport.seek(there);
  roll.setPosition(there, []);
  showTime();
};
roll.on('seek', (detail) => seek(detail));
roll.on('region', showState);
overview.on('seek', (detail) => {
  roll.start = Math.max(0, detail - roll.seconds * 0.3);
  roll.follow = true;
  seek(detail);
});

$('first').addEventListener('click', play);
$('play').addEventListener('click', play);
$('back').addEventListener('click', () => { Object.assign(roll, {start: 0, follow: true}); seek(0); });
$('record').addEventListener('click', record);
$('loop').addEventListener('click', loop);
$('on').addEventListener('click', goOn);
$('again').addEventListener('click', again);
$('ways').addEventListener('click', ways);
$('fill').addEventListener('click', fill);
$('keep').addEventListener('click', keep);
$('jam').addEventListener('click', together);
for (const id of ['takeover', 'handback']) {
  $(id).addEventListener('change', () => duet.agree({takeover: $('takeover').value, handback: $('handback').value}));
}
$('undo').addEventListener('click', () => step('undo'));
$('redo').addEventListener('click', () => step('redo'));
$('new').addEventListener('click', async () => { await begin(); await play(); });
$('open').addEventListener('click', () => $('file').click());
$('file').addEventListener('change', () => { openFile($('file').files[0]); $('file').value = ''; });
$('in').addEventListener('click', () => roll.zoom(1.5));
$('out').addEventListener('click', () => roll.zoom(1 / 1.5));
$('fit').addEventListener('click', () => roll.fit());
$('tempo').addEventListener('input', () => {
  transport.setTempo($('tempo').value / 100);
  $('tempo-shown').textContent = `${$('tempo').value}%`;
});
$('volume').addEventListener('input', () => piano.volume.gain.setTargetAtTime(Number($('volume').value), context.currentTime, 0.02));
$('title').addEventListener('change', () => session.change('another title', {...session.piece, title: $('title').value.trim()}));
for (const name of Object.keys(SAMPLING)) $(name).addEventListener('input', () => setSampling({[name]: Number($(name).value)}));
for (const id of [...TOLD, 'composer', 'second', 'blend']) $(id).addEventListener('input', () => setTold(wished()));
$('usual').addEventListener('click', () => { setSampling(SAMPLING); setTold({}); });
for (const button of document.querySelectorAll('[data-save]')) {
  button.addEventListener('click', () => saveAs(/** @type {HTMLElement} */ (button).dataset.save));
}
$('share').addEventListener('click', doing(async () => {
  $('saving').hidePopover();
  showAddress();
  await navigator.clipboard.writeText(location.href);
  say(session.past.length ? 'Copied: the address of the piece as it was before your changes.' : 'Copied: who opens it hears the same piece.');
}));

let dragged = 0;
addEventListener('dragenter', (event) => {
  event.preventDefault();
  dragged++;
  $('drop').hidden = !event.dataTransfer?.types.includes('Files');
});
addEventListener('dragleave', () => { if (--dragged <= 0) { dragged = 0; $('drop').hidden = true; } });
addEventListener('dragover', (event) => event.preventDefault());
addEventListener('drop', (event) => {
  event.preventDefault();
  dragged = 0;
  $('drop').hidden = true;
  openFile(event.dataTransfer?.files[0]);
});

const mark = (side) => {
  const {position} = transport;
  const {start, end} = roll.region ?? {start: position, end: Math.max(position + 1, roll.length)};
  roll.setRegion(side === 'start' ? {start: position, end: Math.max(end, position + 0.1)} : {start: Math.min(start, position), end: Math.max(position, 0.1)});
};
const shortcuts = {
  ' ': play, e: goOn, r: again, c: ways, f: fill, k: keep, l: loop, d: together, n: () => $('new').click(), i: () => mark('start'), o: () => mark('end'),
  home: () => $('back').click(), end: () => seek(Infinity), enter: take, '+': () => roll.zoom(1.5), '=': () => roll.zoom(1.5),
  '-': () => roll.zoom(1 / 1.5), 0: () => roll.fit(), 1: () => listen(0), 2: () => listen(1), 3: () => listen(2), 4: () => listen(3),
};
addEventListener('keydown', (event) => {
  const key = event.key.toLowerCase();
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.matches('input:not([type=range]), select, textarea');
  if ((event.ctrlKey || event.metaKey) && !event.altKey && !typing && (key === 'z' || key === 'y')) {
    event.preventDefault();
    return step(key === 'y' || event.shiftKey ? 'redo' : 'undo');
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if ((key === ' ' || key === 'enter') && target.matches('button, input')) return;
  if (key === 'escape') return maker.choice ? drop() : roll.setRegion(null);
  if (key === 'arrowleft' || key === 'arrowright') {
    if (target.matches('input')) return;
    event.preventDefault();
    roll.follow = true;
    return seek(transport.position + (key === 'arrowleft' ? -1 : 1) * (event.shiftKey ? 10 : 1));
  }
  if (shortcuts[key]) {
    event.preventDefault();
    shortcuts[key](event);
  }
});

// A button that was clicked must not catch the keys that come next; one that was reached by keys keeps them.
addEventListener('click', (event) => {
  if (event.detail) /** @type {Element} */ (event.target).closest('button')?.blur();
});
addEventListener('pointerup', (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.matches('input[type=range]')) setTimeout(() => target.blur());
});

const dark = matchMedia('(prefers-color-scheme: dark)');
function setTheme() {
  const wish = localStorage.getItem('theme') ?? 'auto';
  const name = wish === 'auto' ? (dark.matches ? 'dark' : 'light') : wish;
  document.documentElement.dataset.theme = name;
  /** @type {any} */ (document.querySelector(`[name=theme][value=${wish}]`)).checked = true;
  roll.setTheme(name);
  overview.draw();
  showChoice();
}
dark.addEventListener('change', setTheme);
for (const choice of document.querySelectorAll('[name=theme]')) {
  choice.addEventListener('change', () => { localStorage.setItem('theme', /** @type {any} */ (choice).value); setTheme(); });
}

const showPorts = doing(async () => {
  const there = await hands.connect(showPorts).catch(() => null); // null: not allowed
  for (const [id, none] of [['midi-in', 'none'], ['midi-out', 'none: the piano here']]) {
    const ports = id === 'midi-in' ? hands.inputs : hands.outputs;
    const chosen = $(id).value;
    $(id).replaceChildren(new Option(there ? none : there === null ? 'not allowed by the browser' : 'this browser has no MIDI', ''), ...ports.map((port) => new Option(port.name, port.id)));
    $(id).value = ports.some((port) => port.id === chosen) ? chosen : '';
  }
  if (there && !$('midi-in').value && hands.inputs.length) $('midi-in').value = hands.inputs[0].id;
  hands.choose($('midi-in').value, $('midi-out').value);
});
$('about').addEventListener('toggle', (event) => { if (event.newState === 'open') showPorts(); });
for (const id of ['midi-in', 'midi-out']) {
  $(id).addEventListener('change', () => { transport.hush(); duet.hush(); hands.choose($('midi-in').value, $('midi-out').value); });
}

/** The page begins: the last session, or new music from the address's seed, made before anybody asks for it. */
async function main() {
  setTheme();
  const words = new URLSearchParams(location.hash.slice(1));
  const token = words.get('token') ?? sessionStorage.getItem('token') ?? '';
  if (token) sessionStorage.setItem('token', token);
  samples.load(context, new URL('piano/', location.href)).catch((error) => say(sentence(error.message), true));
  const all = await saved().catch(() => []);
  const seed = /^\d{1,15}$/.test(words.get('seed') ?? '') ? Number(words.get('seed')) : null;
  const last = all.find((one) => one.seed === seed);
  const sampling = Object.fromEntries(Object.keys(SAMPLING).filter((name) => words.has(name) && isFinite(Number(words.get(name))))
    .map((name) => [name, Number(words.get(name))]));
  if (last) openSession(last.text);
  else session.begin(seed ?? Math.floor(Math.random() * 2 ** 31));
  const labels = [...words].filter(([word, weight]) => word.includes('=') && Number(weight) >= 0 && Number(weight) <= 1);
  session.sampling = {...session.sampling, ...sampling};
  if (labels.length) session.told = Object.fromEntries(labels.map(([label, weight]) => [label, Number(weight)]));
  showSampling();
  showAddress();
  showRecent(all.filter((one) => one !== last));
  try {
    arriving = connect(token);
    await arriving;
  } catch (error) {
    return lost(error.message, token);
  } finally {
    arriving = null;
  }
  if (!last) await maker.begin(session.seed, session);
}

addEventListener('hashchange', () => {
  const seed = Number(new URLSearchParams(location.hash.slice(1)).get('seed'));
  if (Number.isInteger(seed) && seed !== session.seed) begin(seed);
});

function showRecent(all) {
  const buttons = all.slice(0, 3).map(({title, seed, notes, text}) => {
    const button = Object.assign(document.createElement('button'), {className: 'quiet', textContent: `${title || `Piece ${seed}`} (${counted(notes, 'notes')})`});
    button.addEventListener('click', doing(() => openSession(text)));
    return button;
  });
  $('recent').replaceChildren(...(buttons.length ? ['Or open again: ', ...buttons] : []));
}

Object.assign(window, {studio: {session, maker, duet, roll, transport, piano, samples, hands, context}});
doing(main)();
