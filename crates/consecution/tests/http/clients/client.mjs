// Posts bodies of the given sizes to URLs, and looks whether they come back. Its
// arguments: the sizes, with commas between them, and the URLs.
// `fetch` of node sends all of the body before it gives the reply away.

const [sizes, ...urls] = process.argv.slice(2);
for (const size of sizes.split(",").map(Number)) {
    const body = Buffer.alloc(size);
    for (let at = 0; at < size; at++) body[at] = (at * 31 + (at >> 9)) & 255;
    for (const url of urls) {
        const reply = await fetch(url, { method: "POST", body });
        const got = Buffer.from(await reply.arrayBuffer());
        if (reply.status !== 200) {
            throw new Error(`${url}: status ${reply.status}: ${got.subarray(0, 500)}`);
        }
        if (!got.equals(body)) throw new Error(`${url}: ${got.length} bytes of ${size} came back`);
        console.log(`${url} ${size} fetch`);
    }
}
