"""Posts bodies of the given sizes to URLs, and looks whether they come back.

Its arguments: the sizes, with commas between them, and the URLs. As most programs do it: all of the body is sent before a byte is read.
"""

import http.client
import os
import sys
import urllib.parse
import urllib.request


def in_chunks(body):
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


def by_http_client(url, body):
    address = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.netloc, timeout=120)
    connection.request("POST", address.path, body=body)
    with connection.getresponse() as reply:
        return reply.status, reply.read()


def by_urllib(url, body):
    with urllib.request.urlopen(url, data=body, timeout=120) as reply:
        return reply.status, reply.read()


def there_and_back(url, body):
    tries = [
        ("http.client", by_http_client, body),
        ("http.client in chunks", by_http_client, in_chunks(body)),
        ("urllib", by_urllib, body),
    ]
    for name, post, sent in tries:
        status, got = post(url, sent)
        assert status == 200, f"{url}, {name}: {status} {got[:500]}"
        assert got == body, f"{url}, {name}: {len(got)} bytes of {len(body)} came back"
        print(f"{url} {len(body)} {name}")


def main(sizes, urls):
    for size in map(int, sizes.split(",")):
        body = os.urandom(size)
        for url in urls:
            there_and_back(url, body)


main(sys.argv[1], sys.argv[2:])
