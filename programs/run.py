"""Runs real programs as links, and compares them with `docker run`. See docs/programs.md.

    make test-programs                              # all, against what is recorded
    make test-programs ARGS='--only jq,gpg'         # some of them, with what differs
    make test-programs ARGS='--record'              # record what Docker does, write the table

Each case runs unmodified first. Where it then differs from Docker, it runs again with the
keys that the case names. Without an engine that answers, what Docker once did is compared.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import examples
import images
from engines import SECONDS_MAX, Consecution, Docker, Outcome, brief

HERE = Path(__file__).parent
TREE = HERE.parent
RECORDED = HERE / "recorded.json"
PAGE = TREE / "docs" / "programs.md"
ERROR_BYTES_SHOWN = 1500
COMMAND_CHARACTERS_SHOWN = 120
AS_DOCKER, WITH_KEY, DIFFERS = "as under Docker", "with", "differs"


@dataclass
class Case:
    name: str
    about: dict

    @property
    def image(self):
        return self.about["image"]

    def command(self):
        for shell, key in [("sh", "script"), ("bash", "bash")]:
            if key in self.about:
                return [shell, "-c", self.about[key]]
        return shlex.split(self.about["run"])

    def input(self):
        if "input_file" in self.about:
            return (HERE / "inputs" / self.about["input_file"]).read_bytes()
        return self.about.get("input", "").encode()

    def link(self, reference, keys):
        command, *arguments = self.command()
        link = {"Image": reference, "Command": command, "Arguments": arguments}
        for key, ours in [("User", "user"), ("WorkingDirectory", "folder"), ("Environment", "environment")]:
            if ours in self.about:
                link[key] = self.about[ours]
        return link | keys


def cases():
    found = []
    for path in sorted((HERE / "cases").glob("*.toml")):
        with open(path, "rb") as file:
            found += [Case(name, about) for name, about in tomllib.load(file).items()]
    return found


def compare(case, reference, consecution, docker, before):
    """How a case fares, as it is recorded, and lines about what differs."""
    shown = []
    expected = before.get("docker")
    if docker:
        expected = docker.run(case, reference).normalised(case).recorded()
        if before and expected != before["docker"]:
            shown.append(f"Docker does something else than is recorded: {json.dumps(expected)}")
    # First without any key, then with those that the case names.
    for result, keys in [(AS_DOCKER, {}), (WITH_KEY, case.about.get("keys"))]:
        if keys is None:
            continue
        try:
            outcome, said = consecution.run(case, reference, keys)
        except subprocess.TimeoutExpired:
            shown.append(f"not over after {SECONDS_MAX} s")
            continue
        ours = outcome.normalised(case).recorded()
        if ours == expected:
            return {"result": result, "docker": expected}, shown
        shown += differences(ours, expected, keys, said)
    return {"result": DIFFERS, "docker": expected}, shown


def differences(ours, expected, keys, said):
    lines = [f"with {json.dumps(keys)}:"] if keys else []
    for what in ours:
        if expected is None or ours[what] != expected[what]:
            docker = "nothing recorded" if expected is None else json.dumps(expected[what])
            lines += [f"{what}: {json.dumps(ours[what])}", f"    docker: {docker}"]
    return lines + ["all of standard error: " + said.decode(errors="replace")[-ERROR_BYTES_SHOWN:]]


def write_table(found, results):
    """Writes the tables of docs/programs.md, between their marks."""
    found = [case for case in found if case.name in results]
    others = [case for case in found if results[case.name]["result"] != AS_DOCKER]
    lines = [count(results), ""]
    if others:
        lines += ["| does not run as under Docker | without a key | way round |", "|---|---|---|"]
        lines += [f"| {case.name} | {case.about.get('why', '')} | {way_round(case)} |" for case in others]
    for image in dict.fromkeys(case.image for case in found):
        lines += ["", f"### {image}", "", "| case | what runs |", "|---|---|"]
        for case in found:
            if case.image == image:
                lines.append(f"| {case.name}{' *' if case in others else ''} | {shown(case)} |")
    mark = "<!-- the tables: make test-programs ARGS=--record -->\n"
    before, _, after = PAGE.read_text().split(mark)
    PAGE.write_text(before + mark + "\n".join(lines) + "\n" + mark + after)


def shown(case):
    """What a case runs, as a cell of a table."""
    command = case.command()
    text = " ".join((command[2] if command[1:2] == ["-c"] else shlex.join(command)).split())
    text = text if len(text) <= COMMAND_CHARACTERS_SHOWN else text[: COMMAND_CHARACTERS_SHOWN - 1] + "…"
    return "`` " + text.replace("|", "\\|") + " ``"


def way_round(case):
    keys = f"`{yaml(case.about['keys'])[1:-1]}`: " if "keys" in case.about else ""
    return keys + case.about.get("way_round", "")


def yaml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def count(results):
    kinds = [result["result"] for result in results.values()]
    return (
        f"Of {len(kinds)} cases {kinds.count(AS_DOCKER)} run as under Docker without any key, "
        f"{kinds.count(WITH_KEY)} with a key, {kinds.count(DIFFERS)} differ."
    )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names of cases, images or examples, separated by commas")
    parser.add_argument("--record", action="store_true", help="write recorded.json, and the tables")
    parser.add_argument("--served", action="store_true", help="also call each over HTTP, several times")
    parser.add_argument("--without-docker", action="store_true", help="compare with what is recorded")
    options = parser.parse_args()
    options.only = set(filter(None, options.only.split(",")))
    return options


def main():
    options = parse()
    target = Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"))
    work = target / "programs"
    consecution = Consecution(target / "debug" / "consecution", work / "home")
    docker = None if options.without_docker else Docker.answering()
    print(f"programs: beside {'Docker' if docker else 'what is recorded of Docker'}", flush=True)

    only = options.only
    found = [case for case in cases() if not only or only & {case.name, case.image}]
    tried = {name: about for name, about in examples.descriptions().items() if not only or name in only}
    needed = {case.image for case in found}.union(*(about["image"].values() for about in tried.values()))
    references = images.provide(sorted(needed), work, consecution, docker)

    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    results = {}
    failed = []
    for case in found:
        before = recorded.get(case.name, {})
        result, shown = compare(case, references[case.image], consecution, docker, before)
        if options.served and result["result"] == AS_DOCKER:
            for output in consecution.serve(case, references[case.image], result["docker"]["status"]):
                served = brief(Outcome(0, output, b"").normalised(case).stdout)
                if served != result["docker"]["stdout"]:
                    result = result | {"result": DIFFERS}
                    shown.append(f"served: {json.dumps(served)}, {output[:ERROR_BYTES_SHOWN]}")
        results[case.name] = result
        is_same = options.record or result["result"] == before.get("result")
        if not is_same:
            failed.append(case.name)
        print(f"{case.name:24} {result['result']}{'' if is_same else ', not as recorded'}", flush=True)
        if not is_same or only or result["result"] == DIFFERS:
            print(
                "".join(f"    {line}\n" for part in shown for line in part.splitlines()), end="", flush=True
            )
    for name, about in tried.items():
        wrong = examples.check(name, about, references, consecution)
        if wrong:
            failed.append(name)
        print(f"example {name:16} {wrong or 'as expected'}", flush=True)

    print("\n" + count(results))
    if options.record:
        every = cases()
        results = recorded | results
        recorded = {case.name: results[case.name] for case in every if case.name in results}
        RECORDED.write_text(json.dumps(recorded, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        write_table(every, recorded)
    print(f"{len(found) + len(tried) - len(failed)} passed, {len(failed)} failed {' '.join(failed)}".rstrip())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
