// Posts bodies of the given sizes to a URL, and looks whether they come back.
// `fetch` of node sends all of the body before it gives the reply away.

const [url, ...sizes] = process.argv.slice(2);
for (const size of sizes.map(Number)) {
    const body = Buffer.alloc(size);
    for (let at = 0; at < size; at++) body[at] = (at * 31 + (at >> 9)) & 255;
    const reply = await fetch(url, { method: "POST", body });
    const got = Buffer.from(await reply.arrayBuffer());
    if (reply.status !== 200) throw new Error(`status ${reply.status}: ${got.subarray(0, 500)}`);
    if (!got.equals(body)) throw new Error(`${got.length} bytes of ${size} came back`);
    console.log(`fetch: ${size} bytes`);
}
