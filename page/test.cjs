// Looks at the page as people do: in a browser, light and dark, wide and narrow, by keyboard
// alone; with a chain of 20 links, 200 chains, and a link that fails every second.
//
// usage: node test.cjs PROGRAM FOLDER; FOLDER has an image store in `home`, and gets pictures.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { chromium } = require('playwright-core');

const [program, folder] = process.argv.slice(2).map((it) => path.resolve(it));
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const PATIENCE_MS = 30000;

const cat = (name) => `- {Image: busybox, Command: cat, Name: ${name}}\n`;
const HOSTILE = '<script>document.title="taken"</script><img src=x onerror=alert(1)>';
const FEW = {
  words: 'Chain:\n- {Image: busybox, Command: tr, Arguments: [a-z, A-Z]}\n- {Image: busybox, Command: sort}\n',
  fails: `Chain:\n${cat('reads')}- Name: '${HOSTILE}'\n  Image: busybox\n  Command: sh\n`
    + `  Arguments: [-c, 'cat > /dev/null; echo "${HOSTILE.replaceAll('"', '\\"')}" >&2; exit 3']\n`,
  cuts: "Parameters:\n  width: {Pattern: '[1-9][0-9]{0,3}', Default: '20'}\nContentType: text/plain\n"
    + "Chain:\n- {Image: busybox, Command: head, Arguments: [-c, '${width}']}\n",
  gone: 'Chain:\n- {Image: "127.0.0.1:1/nothing", Command: cat}\n',
  long: `Chain:\n${Array.from({ length: 20 }, (_, at) => cat(`step-${at + 1}`)).join('')}`,
};
const MANY = Object.fromEntries(Array.from({ length: 200 }, (_, at) => [
  `chain-${String(at).padStart(3, '0')}`, `Chain:\n${cat(`first-${at}`)}${cat('second')}`,
]));

// Serves these chains until `stop` is called.
async function serve(name, chains) {
  const files = path.join(folder, `chains-${name}`);
  fs.rmSync(files, { recursive: true, force: true });
  fs.mkdirSync(files, { recursive: true });
  for (const [chain, text] of Object.entries(chains)) {
    fs.writeFileSync(path.join(files, `${chain}.yaml`), text);
  }
  const child = spawn(program, ['--home', path.join(folder, 'home'), 'serve', '--listen', '127.0.0.1:0', files],
    { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  const address = await new Promise((done, failed) => {
    const late = setTimeout(() => failed(new Error(`it does not listen: ${said}`)), PATIENCE_MS);
    child.stderr.on('data', (text) => {
      said += text;
      const found = /listening on (http:\S+)/.exec(said);
      if (found) { clearTimeout(late); done(found[1]); }
    });
  });
  const stop = () => new Promise((done) => { child.once('exit', done); child.kill('SIGTERM'); });
  return { address, stop, process: child.pid };
}

const post = (url, body) => fetch(url, { method: 'POST', body }).then(async (reply) => [reply.status, await reply.text()]);

// A page with every promise of ours watched: no errors, no dialogs, nothing from elsewhere.
async function open(browser, address, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on('pageerror', (error) => assert.fail(`an error on the page: ${error}`));
  page.on('console', (line) => {
    // A reply that is a failure is told of by the browser itself.
    const isExpected = line.text().startsWith('Failed to load resource');
    assert.ok(line.type() !== 'error' || isExpected, line.text());
  });
  page.on('dialog', () => assert.fail('a dialog has opened'));
  page.on('request', (request) => {
    const url = request.url();
    assert.ok(/^(data|blob):/.test(url) || new URL(url).origin === address, `a request to ${url}`);
  });
  await page.goto(`${address}/`, { waitUntil: 'load' });
  return page;
}

const picture = (page, name) => page.screenshot({ path: path.join(folder, `${name}.png`), fullPage: true });

// What axe finds, by a world of its own, so that the page's policy stays as it is.
async function expectAccessible(page, what) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send('Page.getFrameTree');
  const { executionContextId } = await session.send('Page.createIsolatedWorld', { frameId: frameTree.frame.id });
  const evaluate = async (expression) => {
    const options = { expression, contextId: executionContextId, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await session.send('Runtime.evaluate', options);
    assert.ok(!exceptionDetails, exceptionDetails?.exception?.description);
    return result.value;
  };
  await evaluate(`${axe}; 0`);
  const found = await evaluate(`axe.run().then(({ violations }) => violations.map((it) =>
    it.id + ': ' + it.nodes.map((node) => node.html).join(' ')))`);
  assert.deepEqual(found, [], what);
}

async function looksWell(browser, { address }) {
  for (const colorScheme of ['light', 'dark']) {
    for (const [size, width] of [['wide', 1280], ['narrow', 360]]) {
      const page = await open(browser, address, { colorScheme, viewport: { width, height: 900 } });
      await page.getByText('1 chain cannot be run').waitFor();
      await page.locator('details.failure').first().waitFor();
      await page.locator('details.failure summary').first().click();
      await picture(page, `${colorScheme}-${size}`);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(overflow <= 0, `${size}: ${overflow} pixels stick out`);
      await expectAccessible(page, `${colorScheme} ${size}`);
      await page.context().close();
    }
  }
}

async function saysWhatIsWrong(browser, { address }) {
  const page = await open(browser, address);
  const trouble = page.locator('#trouble');
  await trouble.getByText("gone, link 1 'cat': failed to pull the image").waitFor();
  assert.ok((await page.title()).startsWith('(!)'));
  // The broken chain comes first.
  assert.equal(await page.locator('.chain h3').first().textContent(), 'gone');
  // Names and standard error that look like HTML are text.
  const failure = page.locator('details.failure', { hasText: 'exited with code 3' }).first();
  await failure.locator('summary').click();
  assert.ok((await failure.locator('pre').textContent()).includes(HOSTILE));
  assert.ok((await failure.locator('summary').textContent()).includes(HOSTILE));
  assert.equal(await page.locator('main script, main img:not(#picture)').count(), 0);
  await page.context().close();
}

async function worksByKeyboard(browser, { address }) {
  const page = await open(browser, address);
  await page.locator('.chain').first().waitFor();
  await page.keyboard.press('/');
  await page.keyboard.type('cuts');
  await page.getByText('1 of 5').waitFor();
  const focused = () => page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.id);
  for (let presses = 0; await focused() !== 'Try chain cuts'; presses += 1) {
    assert.ok(presses < 5, `the button cannot be reached, but ${await focused()}`);
    await page.keyboard.press('Tab');
  }
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'input');
  await page.keyboard.type("it's raw data");
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('4');
  for (let presses = 0; await focused() !== 'run'; presses += 1) {
    assert.ok(presses < 5, `the run cannot be started, but ${await focused()}`);
    await page.keyboard.press('Tab');
  }
  const curl = await page.locator('#curl').textContent();
  assert.equal(curl, `curl --data-binary 'it'\\''s raw data' '${address}/chains/cuts?width=4'`);
  await page.keyboard.press('Enter');
  await page.getByText('and gave 4 bytes').waitFor();
  assert.equal(await page.locator('#output').textContent(), "it's");
  await page.locator('#times li', { hasText: 'ended with 0' }).waitFor();
  await picture(page, 'try');
  await expectAccessible(page, 'trying a chain');
  await page.keyboard.press('Escape');
  await page.locator('dialog[open]').waitFor({ state: 'detached' });
  assert.equal(await focused(), 'Try chain cuts');
  await page.context().close();
}

async function triesWhatFails(browser, { address }) {
  const page = await open(browser, address);
  await page.getByLabel('Try chain fails').click();
  await page.locator('#run').click();
  await page.locator('#verdict.bad').waitFor();
  assert.ok((await page.locator('#output').textContent()).includes(HOSTILE));
  await page.keyboard.press('Escape');
  await page.getByLabel('Try chain cuts').click();
  await page.locator('[data-parameter=width]').fill('wide');
  await page.locator('#run').click();
  await page.locator('#verdict', { hasText: '[1-9][0-9]{0,3}' }).waitFor();
  await page.context().close();
}

// Behind a proxy that offers it below a path.
async function worksBelowAPath(browser, { address }) {
  const proxy = http.createServer((request, reply) => {
    const { method, headers } = request;
    const onward = http.request(address + request.url.replace('/tools/pipes', ''), { method, headers }, (from) => {
      reply.writeHead(from.statusCode, from.headers);
      from.pipe(reply);
    });
    request.pipe(onward);
  });
  await new Promise((done) => proxy.listen(0, '127.0.0.1', done));
  const there = `http://127.0.0.1:${proxy.address().port}`;
  const page = await open(browser, there);
  await page.goto(`${there}/tools/pipes/`);
  await page.getByLabel('Try chain words').click();
  await page.locator('#input').fill('b\na\n');
  await page.locator('#run').click();
  await page.getByText('and gave 4 bytes').waitFor();
  assert.equal(await page.locator('#output').textContent(), 'A\nB\n');
  await page.context().close();
  proxy.closeAllConnections();
  proxy.close();
}

// While the page is hidden it asks for nothing; when it is seen again, it does.
async function restsWhileHidden(browser, { address }) {
  const page = await open(browser, address);
  await page.locator('.chain').first().waitFor();
  let asked = 0;
  page.on('request', (request) => { asked += request.url().endsWith('/stats') ? 1 : 0; });
  const hide = (hidden) => page.evaluate((is) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => is });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  const failed = page.waitForEvent('requestfailed', (request) => request.url().endsWith('/stats'));
  await hide(true);
  await failed;
  assert.equal(asked, 0);
  const again = page.waitForRequest((request) => request.url().endsWith('/stats'));
  await hide(false);
  await again;
  await page.context().close();
}

async function comesBack(browser) {
  const first = await serve('back', { words: FEW.words });
  const page = await open(browser, first.address);
  await page.getByText('all is well').waitFor();
  await first.stop();
  await page.getByText('not connected').waitFor();
  await picture(page, 'not-connected');
  await page.context().close();
}

// The processor time of a process, in seconds.
function processorTime(process) {
  const fields = fs.readFileSync(`/proc/${process}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

async function showsManyChains(browser) {
  const served = await serve('many', MANY);
  const page = await open(browser, served.address);
  await page.getByText('all is well').waitFor();
  assert.equal(await page.locator('.chain').count(), 200);
  await page.locator('#filter').fill('chain-19');
  await page.getByText('10 of 200').waitFor();
  await page.locator('#filter').fill('');
  await picture(page, 'many');
  const spent = async (ms) => {
    const before = processorTime(served.process);
    await new Promise((done) => setTimeout(done, ms));
    return (processorTime(served.process) - before) / (ms / 1000);
  };
  const watched = await spent(20000);
  await page.context().close();
  const alone = await spent(20000);
  const percent = (share) => `${(100 * share).toFixed(2)} %`;
  console.log(`200 chains: ${percent(watched)} of a processor with a page open, ${percent(alone)} without`);
  await served.stop();
}

(async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
  const few = await serve('few', FEW);
  const failing = setInterval(() => post(`${few.address}/chains/fails`, 'x').catch(() => {}), 1000);
  const calling = setInterval(() => post(`${few.address}/chains/words`, 'b\na\n').catch(() => {}), 200);
  try {
    for (const look of [looksWell, saysWhatIsWrong, worksByKeyboard, triesWhatFails,
      worksBelowAPath, restsWhileHidden, comesBack, showsManyChains]) {
      await look(browser, few);
      console.log(`ok  ${look.name}`);
    }
  } finally {
    clearInterval(failing);
    clearInterval(calling);
    await few.stop();
    await browser.close();
  }
  console.log(`pictures are in ${path.relative(process.cwd(), folder)}`);
})().catch((error) => { console.error(error); process.exit(1); });
