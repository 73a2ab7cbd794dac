// Posts bodies of the given sizes to URLs with HTTP/2, and looks whether they come back, and
// whether the streams of a connection leave each other alone. Its arguments: the sizes, with
// commas between them, and the URLs.

import http2 from "node:http2";

function post(session, path, body) {
    return new Promise((resolve, reject) => {
        const stream = session.request({ ":method": "POST", ":path": path, te: "trailers" });
        const chunks = [];
        let status;
        stream.on("response", (headers) => (status = headers[":status"]));
        stream.on("data", (chunk) => chunks.push(chunk));
        stream.on("end", () => resolve({ status, got: Buffer.concat(chunks) }));
        stream.on("error", reject);
        stream.end(body);
    });
}

const [sizes, ...urls] = process.argv.slice(2);
for (const url of urls) {
    const { origin, pathname } = new URL(url);
    const session = http2.connect(origin);
    for (const size of sizes.split(",").map(Number)) {
        const body = Buffer.alloc(size);
        for (let at = 0; at < size; at++) body[at] = (at * 31 + (at >> 9)) & 255;
        // At the same time, one that asks for it and then reads nothing.
        const unread = session.request({ ":method": "POST", ":path": pathname });
        unread.on("error", () => {});
        unread.pause();
        unread.end(body);
        const replies = [1, 2, 3].map(() => post(session, pathname, body));
        for (const { status, got } of await Promise.all(replies)) {
            if (status !== 200) throw new Error(`${url}: status ${status}: ${got.subarray(0, 500)}`);
            if (!got.equals(body)) {
                throw new Error(`${url}: ${got.length} bytes of ${size} came back`);
            }
        }
        unread.close(http2.constants.NGHTTP2_CANCEL);
        console.log(`${url} ${size} http2`);
    }
    session.close();
}
