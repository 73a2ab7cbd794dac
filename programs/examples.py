"""Runs the chains of examples/, and compares what comes out with what is expected."""

import json
import re
import tempfile
import tomllib
from pathlib import Path

import images

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"


def descriptions():
    with open(HERE / "examples.toml", "rb") as file:
        return tomllib.load(file)


def check(name, about, references, consecution):
    """What is wrong with an example, or nothing."""
    folder = EXAMPLES / name
    chain = (folder / "chain.yaml").read_text()
    for theirs, ours in about["image"].items():
        if missing := packages(folder) - set(images.descriptions()["image"][ours]["apt"]):
            return f"its Dockerfile has packages that image {ours} has not: {missing}"
        chain = re.sub(
            f"^(- |  )Image: {theirs}$", rf"\1Image: {references[ours]}", chain, flags=re.MULTILINE
        )
    with open(EXAMPLES / about["input"], "rb") as given:
        done = run(consecution, chain, about.get("options", []), given)
    if done.returncode != 0:
        return f"status {done.returncode}: {done.stderr.decode(errors='replace')}"
    output = done.stdout
    if look := about.get("look"):
        link = {
            "Image": references[next(iter(about["image"].values()))],
            "Command": "sh",
            "Arguments": ["-c", look],
        }
        with tempfile.TemporaryFile() as file:
            file.write(output)
            file.seek(0)
            output = run(consecution, json.dumps({"Chain": [link]}), [], file).stdout
    expected = (folder / "expected").read_bytes()
    return None if output == expected else f"output {output!r}, expected {expected!r}"


def run(consecution, chain, options, given):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(chain)
        file.flush()
        return consecution.call("run", file.name, *options, stdin=given, cwd=EXAMPLES.parent, timeout=120)


def packages(folder):
    """The Debian packages that the Dockerfile beside a chain installs."""
    dockerfile = folder / "Dockerfile"
    if not dockerfile.exists():
        return set()
    text = dockerfile.read_text().replace("\\\n", " ")
    return set(re.search(r"--no-install-recommends (.*)", text).group(1).split())
