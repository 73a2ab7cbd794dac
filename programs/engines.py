"""Runs a case with Consecution, and with Docker."""

import base64
import hashlib
import json
import re
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

SECONDS_MAX = 120
SERVED_CALLS = 4
# An output that is longer is recorded as its hash.
RECORDED_BYTES_MAX = 300
# Everything that Consecution itself says, after what the program has said.
OUR_MESSAGE = re.compile(rb"^(?:consecution: |hint: ).*\Z", re.MULTILINE | re.DOTALL)


@dataclass
class Outcome:
    status: int
    stdout: bytes
    stderr: bytes

    def normalised(self, case):
        """Without what differs from run to run; each case says why it does."""
        streams = [self.stdout, self.stderr]
        for rule in case.about.get("normalise", []):
            assert rule["why"], case.name
            pattern = re.compile(rule["what"].encode(), re.MULTILINE)
            streams = [pattern.sub(rule.get("as", "").encode(), stream) for stream in streams]
        return Outcome(self.status, *streams)

    def recorded(self):
        return {"status": self.status, "stdout": brief(self.stdout), "stderr": brief(self.stderr)}


def brief(data):
    """Bytes as they are recorded: text where it is short, else a hash."""
    if len(data) > RECORDED_BYTES_MAX:
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


class Consecution:
    def __init__(self, program, home):
        self.program, self.home = program, home

    def call(self, *words, **options):
        command = [self.program, *words, "--home", self.home, "--log", "off"]
        return subprocess.run(command, capture_output=True, **options)

    def images(self):
        return self.call("image", "list", check=True).stdout.decode().split()

    def load(self, tag, archive):
        self.call("image", "import", tag, archive, check=True)

    def remove(self, tag):
        self.call("image", "remove", tag, check=True)

    def run(self, case, reference, keys):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            # JSON is YAML.
            json.dump({"Chain": [case.link(reference, keys)]}, file)
            file.flush()
            done = self.call("run", file.name, input=case.input(), timeout=SECONDS_MAX)
        return Outcome(done.returncode, done.stdout, OUR_MESSAGE.sub(b"", done.stderr)), done.stderr

    def serve(self, case, reference, status):
        """The outputs of some calls of a case over HTTP, one after the other.

        All but the first may find a process, or at least a place, that was there before.
        """
        link = case.link(reference, {"AcceptedExitCodes": [status]})
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file, socket.socket() as free:
            json.dump({"Chain": [link]}, file)
            file.flush()
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
            free.close()
            command = [
                self.program,
                "serve",
                file.name,
                "--home",
                self.home,
                "--listen",
                address,
                "--log",
                "off",
            ]
            with subprocess.Popen(command) as server:
                try:
                    wait_until_ready(f"http://{address}/readyz")
                    return [post(f"http://{address}", case.input()) for _ in range(SERVED_CALLS)]
                finally:
                    server.terminate()


class Docker:
    @staticmethod
    def answering():
        try:
            done = subprocess.run(["docker", "version"], capture_output=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Docker() if done.returncode == 0 else None

    def images(self):
        command = ["docker", "image", "list", "--format", "{{.Repository}}:{{.Tag}}"]
        return subprocess.run(command, check=True, capture_output=True).stdout.decode().split()

    def load(self, tag, archive):
        subprocess.run(["docker", "load", "--quiet", "--input", archive], check=True, capture_output=True)

    def remove(self, tag):
        subprocess.run(["docker", "image", "rm", tag], check=True, capture_output=True)

    def run(self, case, reference):
        options = ["--rm", "--interactive", "--network", "none", "--pull", "never"]
        for name, value in case.about.get("environment", {}).items():
            options += ["--env", f"{name}={value}"]
        for option, ours in [("--user", "user"), ("--workdir", "folder")]:
            if ours in case.about:
                options += [option, case.about[ours]]
        command = ["docker", "run", *options, reference, *case.command()]
        done = subprocess.run(command, input=case.input(), capture_output=True, timeout=SECONDS_MAX)
        return Outcome(done.returncode, done.stdout, done.stderr)


def wait_until_ready(url):
    for _ in range(10 * SECONDS_MAX):
        try:
            return urllib.request.urlopen(url, timeout=SECONDS_MAX).read()
        except OSError:
            time.sleep(0.1)
    raise subprocess.TimeoutExpired(url, SECONDS_MAX)


def post(url, body):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=SECONDS_MAX) as reply:
            return reply.read()
    except urllib.error.HTTPError as problem:
        return problem.read()
