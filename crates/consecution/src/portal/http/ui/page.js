// The page of a portal. It reads /stats as events, and shows what has changed since the one
// before. All text from links, runners and chain files goes into the page as text, never as
// HTML.
'use strict';

const HISTORY_S = 60;          // what rates, times and the curves look back on
const SHOWN_OUTPUT = 64 * 1024; // characters of an output that are shown
const KEY = 'consecution-key'; // where the token lies, for this tab only

const $ = (id) => document.getElementById(id);

// --- little helpers ---

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === 'class') element.className = value;
    else if (name === 'text') element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Writes only what is new: an unchanged text costs no layout, and keeps a selection.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, name, is) {
  element.classList.toggle(name, is);
}

function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return '–';
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(2)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function rate(perSecond) {
  if (perSecond === 0) return '0';
  return perSecond < 9.95 ? perSecond.toFixed(1) : Math.round(perSecond).toString();
}

const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;

// --- what a key allows ---

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

let asking = null;

// Asks for a key once, however many requests were refused.
function askForKey(why) {
  asking ??= new Promise((done) => {
    say($('ask-why'), why);
    $('key').value = '';
    $('ask').showModal();
    $('ask').addEventListener('close', () => {
      if ($('key').value) sessionStorage.setItem(KEY, $('key').value.trim());
      $('key').value = '';
      asking = null;
      done();
    }, { once: true });
  });
  return asking;
}

async function problem(response) {
  try {
    const told = await response.json();
    return told.detail || told.title || `HTTP ${response.status}`;
  } catch {
    return `HTTP ${response.status}`;
  }
}

// --- following the figures ---

let stop = null;

async function follow() {
  let wait = 500;
  while (!document.hidden) {
    stop = new AbortController();
    try {
      const response = await fetch('../stats', {
        headers: headers({ Accept: 'text/event-stream' }),
        signal: stop.signal,
        cache: 'no-store',
      });
      if (response.status === 401 || response.status === 403) {
        await askForKey(await problem(response));
        continue;
      }
      if (!response.ok) throw new Error(await problem(response));
      wait = 500;
      // The server ends each stream after some minutes, so that it checks the key again. If
      // it is gone, the next request fails.
      if (!await read(response.body.getReader())) throw new Error('the server has closed the connection');
    } catch (error) {
      if (document.hidden) break;
      state('wait', `not connected: ${error.message}`);
      await new Promise((done) => setTimeout(done, wait));
      wait = Math.min(wait * 2, 10000);
    }
  }
  stop = null;
}

// Shows figures to the end of the stream; says whether there were any.
async function read(reader) {
  const decoder = new TextDecoder();
  let held = '';
  let hasShown = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return hasShown;
    held += decoder.decode(value, { stream: true });
    const events = held.split('\n\n');
    held = events.pop();
    // Of several that have come at once, the last one is what holds now.
    const last = events.pop();
    if (!last) continue;
    show(JSON.parse(last.slice('data: '.length)));
    hasShown = true;
  }
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) stop?.abort();
  else if (!stop) follow();
});

// --- the last minute, from the difference of two figures ---

const history = new Map();

function remember(chain, now) {
  let past = history.get(chain.name);
  // Counters that have fallen are those of a new process.
  if (!past || past.at(-1).calls > chain.calls) history.set(chain.name, past = []);
  const failed = Object.entries(chain.failures)
    .filter(([kind]) => kind !== 'client_gone' && kind !== 'input_cut' && kind !== 'parameter')
    .reduce((sum, [, count]) => sum + count, 0);
  past.push({
    now, failed, calls: chain.calls, buckets: chain.times.buckets,
    links: chain.links.map(({ runs, joined, seconds, cpu_seconds: cpu }) => ({ runs, joined, seconds, cpu })),
  });
  while (past.length > 2 && now - past[1].now >= HISTORY_S) past.shift();
  return past;
}

function recent(past) {
  const [first, last] = [past[0], past.at(-1)];
  const span = Math.max(last.now - first.now, 1e-9);
  return {
    calls: last.calls - first.calls,
    failed: last.failed - first.failed,
    perSecond: past.length > 1 ? (last.calls - first.calls) / span : 0,
    buckets: last.buckets.map((count, at) => count - first.buckets[at]),
    links: last.links.map((link, at) => ({
      runs: link.runs - first.links[at].runs,
      joined: link.joined - first.links[at].joined,
      seconds: link.seconds - first.links[at].seconds,
      cpu: link.cpu - first.links[at].cpu,
    })),
  };
}

// The time below which this share of calls stayed, from counts in buckets.
function quantile(buckets, bounds, share) {
  const all = buckets.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  let left = all * share;
  for (let at = 0; at < buckets.length; at += 1) {
    if (left <= buckets[at]) {
      const low = at === 0 ? 0 : bounds[at - 1];
      const high = bounds[at] ?? bounds.at(-1) * 2;
      return low + (high - low) * (left / buckets[at]);
    }
    left -= buckets[at];
  }
  return bounds.at(-1);
}

// --- showing them ---

let told = null;

function show(stats) {
  told = stats;
  const up = duration(stats.now - stats.started);
  say($('about'), `version ${stats.version}, up for ${up}`);
  showState(stats);
  const missing = new Map(stats.missing.map((it) => [`${it.chain}\n${it.link_index}`, it.reason]));
  const all = { calls: 0, failed: 0, perSecond: 0, buckets: stats.bounds.map(() => 0).concat(0) };
  for (const chain of stats.chains) {
    const past = remember(chain, stats.now);
    const now = recent(past);
    all.calls += now.calls;
    all.failed += now.failed;
    all.perSecond += now.perSecond;
    now.buckets.forEach((count, at) => { all.buckets[at] += count; });
    card(chain).update(chain, past, now, stats.bounds, missing);
  }
  forget(stats.chains);
  arrange();
  figure('rate', rate(all.perSecond));
  figure('flight', String(stats.in_flight));
  figure('median', duration(quantile(all.buckets, stats.bounds, 0.5)));
  figure('slow', duration(quantile(all.buckets, stats.bounds, 0.95)));
  figure('failed', all.failed ? `${all.failed} of ${Math.max(all.calls, all.failed)}` : '0', all.failed > 0);
  showFailures(stats.failures);
  showRunners(stats.runners);
}

function figure(name, text, isAlarm = false) {
  const element = document.querySelector(`[data-figure=${name}]`);
  say(element, text);
  mark(element, 'alarm', isAlarm);
}

function state(kind, text) {
  const element = $('state');
  say(element, text);
  if (element.className !== kind) element.className = kind;
  document.title = kind === 'good' ? 'Consecution' : `(!) Consecution`;
}

function showState(stats) {
  const causes = new Set(stats.missing.map((it) => it.chain));
  const starved = stats.runners.filter((it) => it.starved);
  if (!stats.ready) state('bad', `not ready: ${stats.reason ?? 'no chain can be run'}`);
  else if (causes.size) state('bad', `${plural(causes.size, 'chain', 'chains')} cannot be run`);
  else if (starved.length) state('wait', `${plural(starved.length, 'runner', 'runners')} cannot start processes`);
  else state('good', 'all is well');
  const lines = stats.missing.slice(0, 20).map((it) =>
    `${it.chain}, link ${it.link_index + 1} '${it.link_name}': ${it.reason}`);
  if (stats.missing.length > 20) lines.push(`and ${stats.missing.length - 20} links more`);
  for (const it of starved) lines.push(`runner ${it.name ?? 'here'}: ${it.starved}`);
  if (!stats.ready && stats.reason) lines.unshift(stats.reason);
  const list = $('trouble').querySelector('ul');
  if (list.dataset.said !== lines.join('\n')) {
    list.dataset.said = lines.join('\n');
    list.replaceChildren(...lines.map((text) => make('li', { text })));
  }
  $('trouble').hidden = lines.length === 0;
}

// --- chains ---

const cards = new Map();

function card(chain) {
  const shape = chain.links.map((link) => `${link.id} ${link.name}`).join('\n');
  let found = cards.get(chain.name);
  if (found?.shape === shape) return found;
  const made = new Card(chain, shape);
  if (found) found.element.replaceWith(made.element);
  else $('chains').append(made.element);
  history.delete(chain.name);
  remember(chain, told.now);
  cards.set(chain.name, made);
  return made;
}

function forget(chains) {
  if (cards.size === chains.length) return;
  const names = new Set(chains.map((chain) => chain.name));
  for (const [name, { element }] of cards) {
    if (names.has(name)) continue;
    element.remove();
    cards.delete(name);
    history.delete(name);
  }
}

class Card {
  constructor(chain, shape) {
    this.shape = shape;
    this.isBroken = null;
    const button = make('button', { type: 'button', text: 'Try', 'aria-label': `Try chain ${chain.name}` });
    button.addEventListener('click', () => openTry(chain.name));
    this.rate = make('span');
    this.times = make('span');
    this.flight = make('span');
    this.failed = make('span', { class: 'alarm' });
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    svg.setAttribute('viewBox', `0 0 ${HISTORY_S} 20`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('aria-hidden', 'true');
    this.curve = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
    svg.append(this.curve);
    const numbers = make('p', { class: 'numbers' }, this.rate, this.times, this.flight, this.failed);
    const top = make('div', { class: 'top' }, make('h3', { text: chain.name }), numbers, svg, button);
    this.links = chain.links.map((link) => new LinkBox(link));
    const row = make('ol', { class: 'links', 'aria-label': `Links of ${chain.name}` },
      ...this.links.map((link) => link.element));
    this.element = make('article', { class: 'chain' }, top, row);
  }

  update(chain, past, now, bounds, missing) {
    say(this.rate, `${rate(now.perSecond)} a second`);
    const median = quantile(now.buckets, bounds, 0.5);
    const slow = quantile(now.buckets, bounds, 0.95);
    say(this.times, median === null ? 'no calls lately' : `median ${duration(median)}, slowest 5 % ${duration(slow)}`);
    say(this.flight, chain.in_flight ? `${chain.in_flight} in flight` : '');
    say(this.failed, now.failed ? `${now.failed} failed` : '');
    this.draw(past);
    // Links wait for one another, so what they have used of the processor says where the
    // time goes; where that is not counted, how long they ran.
    const isCounted = now.links.some((link) => link.cpu > 0);
    const spent = now.links.map((link) => (isCounted ? link.cpu : link.seconds));
    const all = spent.reduce((sum, time) => sum + time, 0);
    let isBroken = false;
    chain.links.forEach((link, at) => {
      const why = missing.get(`${chain.name}\n${at}`);
      isBroken ||= why !== undefined;
      const share = all > 0 ? Math.round(100 * spent[at] / all) : 0;
      this.links[at].update(link, now.links[at], share, isCounted, why);
    });
    mark(this.element, 'broken', isBroken);
    this.isBroken = isBroken;
  }

  // Calls a second, second by second.
  draw(past) {
    const end = past.at(-1).now;
    const points = [];
    for (let at = 1; at < past.length; at += 1) {
      const span = Math.max(past[at].now - past[at - 1].now, 1e-9);
      points.push([HISTORY_S - (end - past[at].now), (past[at].calls - past[at - 1].calls) / span]);
    }
    const most = Math.max(1, ...points.map(([, value]) => value));
    const text = points.map(([x, value]) => `${x.toFixed(1)},${(19 - 18 * value / most).toFixed(1)}`).join(' ');
    if (this.curve.getAttribute('points') !== text) this.curve.setAttribute('points', text);
  }
}

class LinkBox {
  constructor(link) {
    this.bar = make('i');
    this.time = make('small');
    this.processes = make('small');
    this.why = make('small', { class: 'why' });
    const title = `${link.command}\n${link.id}`;
    this.element = make('li', { class: 'link' }, make('div', { title },
      make('b', { text: link.name }), make('span', { class: 'share' }, this.bar),
      this.time, this.processes, this.why));
  }

  update(link, now, share, isCounted, why) {
    const width = `${share}%`;
    if (this.bar.style.width !== width) this.bar.style.width = width;
    say(this.time, now.runs > 0 ? `${duration(now.seconds / now.runs)}, ${share} % of the ${isCounted ? 'processor ' : ''}time` : '');
    const { idle, starting, in_use: inUse, waiting } = link.processes;
    const parts = [
      [idle, 'warm'], [starting, 'starting'], [inUse, 'in use'], [waiting, 'waiting'],
    ].filter(([count], at) => count > 0 || at === 0).map(([count, what]) => `${count} ${what}`);
    // The kernel passes on what the link before writes.
    if (now.joined > 0) parts.push('joined to the one before');
    say(this.processes, parts.join(', '));
    say(this.why, why ?? '');
    mark(this.element, 'broken', why !== undefined);
    mark(this.element, 'joined', now.joined > 0);
  }
}

// Chains that cannot be run come first; those that the filter leaves out are hidden.
function arrange() {
  const wanted = $('filter').value.trim().toLowerCase();
  let shown = 0;
  for (const [name, it] of cards) {
    const isWanted = name.toLowerCase().includes(wanted);
    if (it.element.hidden === isWanted) it.element.hidden = !isWanted;
    shown += isWanted ? 1 : 0;
  }
  say($('shown'), shown === cards.size ? String(cards.size) : `${shown} of ${cards.size}`);
  const order = [...cards.values()].sort((a, b) => Number(b.isBroken) - Number(a.isBroken));
  const box = $('chains');
  order.forEach(({ element }, at) => {
    if (box.children[at] !== element) box.insertBefore(element, box.children[at] ?? null);
  });
}

$('filter').addEventListener('input', arrange);
document.addEventListener('keydown', (event) => {
  const isTyping = event.target.matches?.('input, textarea');
  if (event.key === '/' && !isTyping && !document.querySelector('dialog[open]')) {
    event.preventDefault();
    $('filter').focus();
  }
});

// --- failures and runners ---

const shownFailures = new Map();

function showFailures(failures) {
  $('no-failures').hidden = failures.length > 0;
  const keys = new Set();
  const box = $('failures');
  for (const failure of failures) {
    const key = `${failure.call_id} ${failure.at}`;
    keys.add(key);
    if (shownFailures.has(key)) continue;
    const element = failureBox(failure);
    shownFailures.set(key, element);
    box.prepend(element);
  }
  for (const [key, element] of shownFailures) {
    if (keys.has(key)) continue;
    element.remove();
    shownFailures.delete(key);
  }
}

function failureBox(failure) {
  const at = new Date(failure.at * 1000);
  const time = make('time', { datetime: at.toISOString(), text: at.toLocaleTimeString() });
  const summary = make('summary', {}, time,
    `${failure.chain}, link ${failure.link_index + 1} '${failure.link_name}' ${failure.reason}`);
  const facts = make('dl', { class: 'facts' });
  for (const [name, value] of [
    ['What may help', failure.hint], ['Limit', failure.limit], ['Links ended with', failure.pipestatus],
    ['Runner', failure.runner], ['Call', failure.call_id], ['Link', failure.link_id],
  ]) {
    if (value) facts.append(make('dt', { text: name }), make('dd', { text: value }));
  }
  const body = make('div', {}, facts);
  if (failure.stderr) {
    body.append(make('p', { class: 'quiet', text: 'The end of its standard error:' }));
    body.append(make('pre', { text: failure.stderr, tabindex: '0', 'aria-label': 'Standard error' }));
  }
  return make('details', { class: 'failure' }, summary, body);
}

function showRunners(runners) {
  $('no-runners').hidden = runners.length > 0;
  $('runners').hidden = runners.length === 0;
  const rows = runners.map((runner) => {
    const broken = Object.values(runner.broken);
    const trouble = runner.starved ?? broken[0];
    const state = runner.draining ? 'leaving' : runner.starved ? `starved: ${runner.starved}`
      : broken.length ? `${plural(broken.length, 'link', 'links')} broken: ${broken[0]}`
        : runner.processes ? 'well' : 'has not answered';
    const loading = runner.loading ? `, ${runner.loading} loading` : '';
    const processes = runner.processes;
    const used = processes
      ? `${processes.in_use} in use, ${processes.idle} warm, of ${runner.processes_max}` : '–';
    const up = runner.started ? duration(told.now - runner.started) : '–';
    return [runner.name ?? 'in this process', [state, trouble !== undefined && trouble !== null],
      `${runner.serving}${loading}`, used, runner.version, up];
  });
  const body = $('runners').querySelector('tbody');
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = body.rows[at] ?? body.insertRow();
    row.forEach((cell, column) => {
      const place = line.cells[column] ?? line.insertCell();
      const [text, isAlarm] = Array.isArray(cell) ? cell : [cell, false];
      say(place, text);
      mark(place, 'alarm', isAlarm);
    });
  });
}

// --- trying a chain ---

let trying = null;
let output = null;

function openTry(name) {
  trying = told.chains.find((chain) => chain.name === name);
  if (!trying) return;
  say($('try-title'), `Try ${name}`);
  const inputs = Object.entries(trying.parameters ?? {}).map(([parameter, { pattern, default: value }]) => {
    const input = make('input', { type: 'text', 'data-parameter': parameter, autocomplete: 'off', spellcheck: 'false' });
    input.value = value ?? '';
    input.addEventListener('input', showCurl);
    return make('label', {}, `${parameter} `, input, make('small', { text: `matches ${pattern}` }));
  });
  $('parameters').replaceChildren(...inputs);
  $('result').hidden = true;
  say($('running'), '');
  showCurl();
  $('try').showModal();
  $('input').focus();
}

function target() {
  const query = new URLSearchParams();
  for (const input of $('parameters').querySelectorAll('input')) {
    query.set(input.dataset.parameter, input.value);
  }
  const text = query.toString();
  return `../chains/${encodeURIComponent(trying.name)}${text ? `?${text}` : ''}`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function showCurl() {
  const url = new URL(target(), location.href).href;
  const file = $('file').files[0];
  const data = file ? quoted(`@${file.name}`) : quoted($('input').value || 'text');
  const key = sessionStorage.getItem(KEY) ? ' -H "Authorization: Bearer $TOKEN"' : '';
  say($('curl'), `curl --data-binary ${data}${key} ${quoted(url)}`);
}

$('input').addEventListener('input', showCurl);
$('file').addEventListener('change', showCurl);
$('run').addEventListener('click', run);

async function run() {
  const [chain, button] = [trying, $('run')];
  button.disabled = true;
  say($('running'), 'running …');
  $('result').hidden = true;
  const began = performance.now();
  try {
    const response = await fetch(target(), {
      method: 'POST',
      body: $('file').files[0] ?? $('input').value,
      headers: headers({ 'Content-Type': 'application/octet-stream' }),
    });
    if (response.status === 401) {
      await askForKey(await problem(response));
      say($('running'), 'Run it again.');
      return;
    }
    const bytes = new Uint8Array(await response.arrayBuffer());
    say($('running'), '');
    await showResult(chain, response, bytes, (performance.now() - began) / 1000);
  } catch (error) {
    say($('running'), `It broke off: ${error.message}. A link may have failed after it had begun to answer; see the last failures.`);
  } finally {
    button.disabled = false;
  }
}

async function showResult(chain, response, bytes, seconds) {
  const kind = response.headers.get('Content-Type') ?? '';
  let verdict = `It took ${duration(seconds)} and gave ${plural(bytes.length, 'byte', 'bytes')}.`;
  let text = new TextDecoder().decode(bytes.subarray(0, SHOWN_OUTPUT));
  if (!response.ok) {
    const said = JSON.parse(text || '{}');
    verdict = said.detail ?? said.title ?? `HTTP ${response.status}`;
    if (said.hint) verdict += ` (${said.hint})`;
    text = said.stderr ?? '';
  }
  const isPicture = response.ok && kind.startsWith('image/');
  const isText = !text.includes('\u0000') && !text.includes('\ufffd');
  if (bytes.length > SHOWN_OUTPUT) text += '\n…';
  say($('verdict'), verdict);
  $('verdict').className = response.ok ? 'good' : 'bad';
  $('output').hidden = isPicture || text === '';
  say($('output'), isText ? text : 'These bytes are no text; save them to look at them.');
  if (output) URL.revokeObjectURL(output);
  output = URL.createObjectURL(new Blob([bytes], { type: kind.split(';')[0] }));
  $('picture').hidden = !isPicture;
  if (isPicture) $('picture').src = output;
  $('save').href = output;
  $('save').download = `${chain.name}.out`;
  $('save').hidden = !response.ok;
  showTimes(chain, response.headers);
  $('result').hidden = false;
}

// A bar for each link, as long as its part of the longest.
function showTimes(chain, given) {
  const statuses = (given.get('Consecution-Pipestatus') ?? '').split(',');
  const times = (given.get('Server-Timing') ?? '').split(', ')
    .map((entry) => Number(/;dur=([0-9.]+)/.exec(entry)?.[1]));
  const most = Math.max(...times.filter(Number.isFinite), 0.001);
  const isKnown = times.length === chain.links.length && times.every(Number.isFinite);
  $('times').replaceChildren(...(isKnown ? chain.links.map((link, at) => {
    const bar = make('i');
    bar.style.width = `${100 * times[at] / most}%`;
    const status = statuses[at] ?? '';
    return make('li', {}, make('span', { text: link.name }), make('span', { class: 'bar' }, bar),
      make('span', { text: `${duration(times[at] / 1000)}, ended with ${status}` }));
  }) : []));
}

follow();
