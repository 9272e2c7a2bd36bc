'use strict';
// The page of tunneld. Text from elsewhere is only ever set as textContent.
const $ = id => document.getElementById(id);
const KEY = 'tunneld session';
const POLL_MS = 2000, SAMPLES = 60, LOG_LINES = 500;
const tunnels = new Map();   // name -> status
const cards = new Map();     // name -> elements of its card
const forms = new Map();     // prompt id -> its form
let session = localStorage.getItem(KEY), following = false, logLines = [];

// The one-time key is in the fragment, which is never sent. It is removed from the address at once.
async function start() {
  const match = /^#key=([\w-]+)$/.exec(location.hash);
  if (match) {
    history.replaceState(null, '', location.pathname);
    try {
      const answer = await fetch('/session', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({key: match[1]})});
      if (answer.ok) {
        session = (await answer.json()).session;
        localStorage.setItem(KEY, session);
      }
    } catch { /* follow() says that the daemon does not answer */ }
  }
  follow();
}

function notice(text) {
  $('notice').hidden = !text;
  if ($('notice').textContent !== text) $('notice').textContent = text;
}

function noKey() {
  session = null;
  localStorage.removeItem(KEY);
  notice('This page needs a new key. Run in a terminal: tunnelctl web');
}

// Reads the lines of the control protocol, and begins again when the stream ends.
async function follow() {
  if (following) return;
  following = true;
  await followUntilRefused();
  following = false;
  noKey();
}

async function followUntilRefused() {
  for (let delay = 500; session; delay = Math.min(delay * 2, 10000)) {
    try {
      const answer = await fetch('/events', {headers: {Authorization: 'Bearer ' + session}});
      if (answer.status === 401) return;
      if (!answer.ok) throw new Error('status ' + answer.status);
      notice('');
      delay = 500;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      for (;;) {
        const {value, done} = await reader.read();
        if (done) break;
        const lines = (rest + value).split('\n');
        rest = lines.pop();
        for (const line of lines) if (line) receive(JSON.parse(line));
      }
    } catch { /* the daemon is away */ }
    if (session) notice('The daemon does not answer. Trying again…');
    await new Promise(done => setTimeout(done, delay));
  }
}

function receive(message) {
  if (message.id === 'snapshot' && message.result) snapshot(message.result);
  else if (message.id === 'log' && message.result) { logLines = []; message.result.lines.forEach(addLog); showLog(); }
  else if (message.method === 'lagged') snapshot(message.params);
  else if (message.method === 'log') { addLog(message.params); showLog(); }
  else if (message.method === 'event') happened(message.params);
}

function snapshot(all) {
  const names = new Set(all.tunnels.map(tunnel => tunnel.name));
  for (const name of [...tunnels.keys()]) if (!names.has(name)) remove(name);
  all.tunnels.forEach(show);
  const ids = new Set(all.prompts.map(prompt => prompt.id));
  for (const id of [...forms.keys()]) if (!ids.has(id)) closePrompt(id);
  all.prompts.forEach(ask);
  summarize();
}

function happened(event) {
  if (event.kind === 'tunnel') { show(event.tunnel); summarize(); }
  else if (event.kind === 'removed') { remove(event.name); summarize(); }
  else if (event.kind === 'prompt') ask(event.prompt);
  else if (event.kind === 'prompt_gone') closePrompt(event.id);
}

async function call(method, params) {
  const answer = await fetch('/call', {
    method: 'POST',
    headers: {'Content-Type': 'application/json', Authorization: 'Bearer ' + session},
    body: JSON.stringify({method, params}),
  });
  if (answer.status === 401) { noKey(); throw new Error('no key'); }
  if (!answer.ok) throw new Error(await answer.text());
  const {result, error} = await answer.json();
  if (error) throw new Error(error.message + (error.data && error.data.hint ? ' – ' + error.data.hint : ''));
  return result;
}

function summarize() {
  const all = [...tunnels.values()], wanted = all.filter(tunnel => tunnel.desired === 'up');
  const up = wanted.filter(tunnel => tunnel.state === 'up' || tunnel.state === 'idle');
  const text = all.length ? up.length + ' of ' + wanted.length + ' up' + (all.length > wanted.length ? ', ' + (all.length - wanted.length) + ' stopped' : '') : 'No tunnel is configured';
  if ($('summary').textContent !== text) $('summary').textContent = text;
  document.title = text + ' – tunneld';
}

const COLOURS = {up: 'ok', idle: 'ok', stopped: 'off', failed: 'bad', degraded: 'bad'};
const text = (element, value) => { if (element.textContent !== value) element.textContent = value; };
const optional = (element, value) => { element.hidden = !value; text(element, value || ''); };

function cardOf(name) {
  let card = cards.get(name);
  if (card) return card;
  const root = $('tunnel-template').content.cloneNode(true).firstElementChild;
  const find = selector => root.querySelector(selector);
  card = {root, state: find('.state'), host: find('.host'), description: find('.description'), error: find('.error'), hint: find('.hint'),
    rates: find('.rates'), rateText: find('.rate-text'), lineIn: find('polyline.in'), lineOut: find('polyline.out'), forwards: find('.forwards'),
    start: find('.start'), stop: find('.stop'), restart: find('.restart'), items: [], samples: [], bytes: null};
  find('h2').textContent = name;
  root.dataset.name = name;
  root.setAttribute('aria-label', name);
  for (const [button, method] of [[card.start, 'tunnel.up'], [card.stop, 'tunnel.down'], [card.restart, 'tunnel.restart']]) {
    button.setAttribute('aria-label', button.textContent + ' ' + name);
    button.addEventListener('click', () => act(card, method, name));
  }
  cards.set(name, card);
  // In the order of the names, numbers by their value.
  const before = [...$('tunnels').children].find(other => other.dataset.name.localeCompare(name, 'en', {numeric: true}) > 0);
  $('tunnels').insertBefore(root, before || null);
  const option = document.createElement('option');
  option.value = option.textContent = name;
  $('log-tunnel').append(option);
  filter(root);
  return card;
}

async function act(card, method, name) {
  try { await call(method, {names: [name]}); } catch (error) { optional(card.error, error.message); }
}

function show(tunnel) {
  const card = cardOf(tunnel.name);
  tunnels.set(tunnel.name, tunnel);
  text(card.state, tunnel.state.replace('_', ' ') + (tunnel.phase ? ' (' + tunnel.phase.replace('_', ' ') + ')' : ''));
  card.state.className = 'state ' + (COLOURS[tunnel.state] || 'wait');
  text(card.host, [tunnel.host, ...tunnel.via].join(' via '));
  optional(card.description, tunnel.description);
  const error = tunnel.last_error;
  optional(card.error, error && error.message);
  optional(card.hint, [error && error.hint, ...tunnel.notes].filter(Boolean).join('\n'));
  card.start.hidden = tunnel.desired === 'up';
  card.stop.hidden = card.restart.hidden = tunnel.desired !== 'up';
  showForwards(card, tunnel.forwards);
}

function showForwards(card, forwards) {
  while (card.items.length > forwards.length) card.items.pop().root.remove();
  forwards.forEach((forward, index) => {
    let item = card.items[index];
    if (!item) {
      const root = $('forward-template').content.cloneNode(true).firstElementChild;
      const find = selector => root.querySelector(selector);
      item = {root, kind: find('.kind'), listen: find('.listen'), to: find('.to'), use: find('.use'), open: find('.open'), copy: find('.copy'), error: find('.error')};
      item.copy.addEventListener('click', () => navigator.clipboard.writeText(item.listen.textContent));
      card.items.push(item);
      card.forwards.append(root);
    }
    text(item.kind, forward.kind);
    text(item.listen, forward.listen);
    text(item.to, forward.to ? '→ ' + forward.to : '');
    text(item.use, (forward.state === 'listening' ? '' : forward.state) + (forward.exposed ? ' exposed to other machines' : ''));
    const isTcp = /:\d+$/.test(forward.listen) && !forward.listen.startsWith('/');
    item.open.hidden = forward.kind !== 'local' || !isTcp || forward.state !== 'listening';
    // Only an address of this machine becomes a link.
    if (!item.open.hidden) item.open.href = 'http:' + '//' + forward.listen.replace(/^\*/, 'localhost');
    item.open.setAttribute('aria-label', 'open ' + forward.listen);
    item.copy.setAttribute('aria-label', 'copy ' + forward.listen);
    const refused = forward.refused ? 'refused ' + forward.refused.count + ' times: ' + forward.refused.message : '';
    optional(item.error, [forward.error && forward.error.message, refused].filter(Boolean).join('; '));
  });
}

function remove(name) {
  tunnels.delete(name);
  const card = cards.get(name);
  if (card) card.root.remove();
  cards.delete(name);
  for (const option of [...$('log-tunnel').options]) if (option.value === name) option.remove();
}

function ask(prompt) {
  if (forms.has(prompt.id)) return;
  const form = $('prompt-template').content.cloneNode(true).firstElementChild;
  const find = selector => form.querySelector(selector);
  const isYesNo = prompt.kind === 'host_key' || prompt.kind === 'host_key_update';
  text(find('h2'), prompt.tunnel + ' asks');
  text(find('.text'), prompt.text);
  const inputs = isYesNo ? [] : prompt.fields.map(field => {
    const label = document.createElement('label'), input = document.createElement('input');
    label.textContent = field.label;
    input.type = field.echo ? 'text' : 'password';
    input.autocomplete = 'off';
    label.append(input);
    find('.fields').append(label);
    return input;
  });
  const send = async answers => {
    try { await call('prompt.answer', {id: prompt.id, answers}); } catch (error) { text(find('.result'), error.message); }
    for (const input of inputs) input.value = '';
  };
  if (isYesNo) { text(find('.send'), 'Yes, I trust it'); find('.no').hidden = false; }
  form.addEventListener('submit', event => {
    event.preventDefault();
    send(isYesNo ? ['yes'] : inputs.map(input => input.value));
  });
  find('.no').addEventListener('click', () => send(['no']));
  find('.cancel').addEventListener('click', () => call('prompt.cancel', {id: prompt.id}).catch(error => text(find('.result'), error.message)));
  forms.set(prompt.id, form);
  $('prompts').append(form);
  (inputs[0] || find('.send')).focus({preventScroll: true});
}

function closePrompt(id) {
  const form = forms.get(id);
  if (form) form.remove();
  forms.delete(id);
}

const UNITS = ['B/s', 'kB/s', 'MB/s', 'GB/s'];
function rate(bytes) {
  let unit = 0;
  while (bytes >= 1000 && unit < UNITS.length - 1) { bytes /= 1000; unit++; }
  return (unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)) + ' ' + UNITS[unit];
}

// Counters make no events: they are asked for while somebody looks.
async function measure() {
  if (session && !document.hidden) {
    try {
      const {tunnels: all} = await call('tunnel.status', {});
      const now = performance.now();
      for (const tunnel of all) if (cards.has(tunnel.name)) sample(cards.get(tunnel.name), tunnel, now);
    } catch { /* follow() says so */ }
  }
  setTimeout(measure, POLL_MS);
}

function sample(card, tunnel, now) {
  const sum = key => tunnel.forwards.reduce((all, forward) => all + forward[key], 0);
  const bytes = {at: now, in: sum('bytes_in'), out: sum('bytes_out')}, last = card.bytes;
  card.bytes = bytes;
  tunnel.forwards.forEach((forward, index) => {
    const item = card.items[index];
    if (item && forward.state === 'listening') text(item.use, forward.connections + ' open' + (forward.held ? ', ' + forward.held + ' held' : '') + (forward.exposed ? ', exposed to other machines' : ''));
  });
  if (!last || last.in > bytes.in || last.out > bytes.out) return;
  const seconds = (now - last.at) / 1000;
  card.samples.push([(bytes.in - last.in) / seconds, (bytes.out - last.out) / seconds]);
  if (card.samples.length > SAMPLES) card.samples.shift();
  card.rates.hidden = !card.samples.some(([down, up]) => down || up);
  if (card.rates.hidden) return;
  const most = Math.max(1, ...card.samples.flat());
  const points = which => card.samples.map((value, index) => (index * 120 / (SAMPLES - 1)).toFixed(1) + ',' + (23 - value[which] / most * 22).toFixed(1)).join(' ');
  card.lineIn.setAttribute('points', points(0));
  card.lineOut.setAttribute('points', points(1));
  const [down, up] = card.samples[card.samples.length - 1];
  text(card.rateText, 'in ' + rate(down) + ', out ' + rate(up));
}

function addLog(line) {
  logLines.push(line);
  if (logLines.length > LOG_LINES) logLines.shift();
}

function showLog() {
  if (!$('log-box').open) return;
  const box = $('log'), name = $('log-tunnel').value;
  const atEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
  box.textContent = logLines.filter(line => !name || line.tunnel === name)
    .map(line => line.at.slice(11, 19) + ' ' + line.level + (line.tunnel ? ' ' + line.tunnel : '') + ' ' + line.message).join('\n');
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function filter(card) { card.hidden = !card.dataset.name.toLowerCase().includes($('filter').value.toLowerCase()); }

$('filter').addEventListener('input', () => { for (const card of $('tunnels').children) filter(card); });
$('reload').addEventListener('click', async () => {
  try {
    const report = await call('config.reload', {});
    notice(report.errors.map(error => error.file + (error.line ? ':' + error.line : '') + ': ' + error.message).join('\n'));
  } catch (error) { notice(error.message); }
});
$('log-box').addEventListener('toggle', showLog);
$('log-tunnel').addEventListener('change', showLog);
// A new key in a tab that has the page open already.
addEventListener('hashchange', start);
start();
measure();
