"""Builds the images of images.toml, and gives them to Consecution and to Docker.

Each image is two layers: Debian's `minbase`, which all share, and what apt-get, pip, npm
and `setup` add to it. The second one is what an overlay's upper folder holds afterwards.
Needs root: for the overlay, and for files of many owners.
"""

import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
# Documentation and translations are half of some packages, and no case reads them.
WITHOUT = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs in a mount and PID namespace of its own, so that all mounts and processes go with it.
INSTALL = """
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
printf '#!/bin/sh\\nexit 101\\n' > "$ROOT/usr/sbin/policy-rc.d"
chmod 755 "$ROOT/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
# Java's packages put links there, and the manual pages are left out.
mkdir -p "$ROOT/usr/share/man/man1"
inside() { chroot "$ROOT" env -i PATH="$PATH" DEBIAN_FRONTEND=noninteractive "$@"; }
if [ -n "$APT" ]; then
    inside apt-get update -qq
    inside apt-get install -qq --yes --no-install-recommends -o Dpkg::Use-Pty=0 \\
        -o Dpkg::Options::=--force-unsafe-io $APT
    inside apt-get clean
    rm -rf "$ROOT/var/lib/apt/lists"/*
fi
if [ -n "$PIP" ]; then
    python3 -m pip install --quiet --target "$ROOT/usr/local/lib/python3.11/dist-packages" \\
        --python-version 3.11 --only-binary :all: --no-compile --root-user-action ignore $PIP
fi
if [ -n "$NPM" ]; then
    npm install --silent --global --prefix "$ROOT/usr/local" $NPM
fi
inside sh -euc "$SETUP"
rm "$ROOT/usr/sbin/policy-rc.d"
: > "$ROOT/etc/resolv.conf"
"""


def descriptions():
    with open(HERE / "images.toml", "rb") as file:
        return tomllib.load(file)


def key(description, name):
    """What an image is built of: it is built anew when that changes."""
    parts = [description["suite"], description["image"][name], INSTALL, WITHOUT]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def base(suite, work):
    """The folder of the layer that all images share, and its archive."""
    root, archive = work / "base", work / "base.tar"
    if not archive.exists():
        shutil.rmtree(root, ignore_errors=True)
        # The machine's own sources, where they are of this suite, else mmdebstrap's.
        sources = [
            str(path)
            for path in [
                Path("/etc/apt/sources.list"),
                *Path("/etc/apt/sources.list.d").glob("debian.sources"),
            ]
            if path.exists() and suite in path.read_text()
        ]
        without = [f"--dpkgopt=path-exclude={path}" for path in WITHOUT]
        run("mmdebstrap", "--quiet", "--variant=minbase", *without, suite, root, *sources)
        pack(root, archive)
    return root, archive


def build(description, name, work):
    """Builds an image, and returns its `docker save` archive."""
    root, base_archive = base(description["suite"], work)
    image = description["image"][name]
    folder = work / f"{name}.build"
    shutil.rmtree(folder, ignore_errors=True)
    for part in ["upper", "work", "root"]:
        (folder / part).mkdir(parents=True)
    words = {kind.upper(): " ".join(image.get(kind, [])) for kind in ["apt", "pip", "npm"]}
    places = {"BASE": root, "UPPER": folder / "upper", "WORK": folder / "work", "ROOT": folder / "root"}
    run(
        *["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", INSTALL],
        env={**os.environ, **words, **places, "SETUP": image.get("setup", ":")},
    )
    layer = folder / "layer.tar"
    pack(folder / "upper", layer)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [f"PATH={PATH}"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(base_archive), digest(layer)]},
    }
    manifest = {
        "Config": "config.json",
        "RepoTags": [reference(name, key(description, name))],
        "Layers": ["base.tar", "layer.tar"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").write_text(json.dumps([manifest]))
    archive = work / f"{name}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(base_archive, "base.tar")
        for part in ["layer.tar", "config.json", "manifest.json"]:
            tar.add(folder / part, part)
    shutil.rmtree(folder)
    return archive


def pack(root, archive):
    """Packs a folder as a layer; what an overlay notes as removed becomes a whiteout."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for folder, names, files in os.walk(root):
            names.sort()
            for name in sorted(names + files):
                path = Path(folder, name)
                inside = path.relative_to(root)
                status = path.lstat()
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    tar.addfile(tarfile.TarInfo(str(inside.with_name(f".wh.{name}"))))
                else:
                    tar.add(path, str(inside), recursive=False)
                    if path.is_dir() and not path.is_symlink() and is_opaque(path):
                        tar.addfile(tarfile.TarInfo(str(inside / ".wh..wh..opq")))


def is_opaque(folder):
    try:
        return os.getxattr(folder, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def digest(path):
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def reference(name, version):
    return f"consecution-programs/{name}:{version}"


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def provide(names, work, consecution, docker):
    """Sees to it that Consecution, and Docker where it answers, have these images.

    Returns each image's reference. What was built once is found again: archives are only
    kept until both have it.
    """
    work.mkdir(parents=True, exist_ok=True)
    description = descriptions()
    references = {name: reference(name, key(description, name)) for name in names}
    with open(work / "lock", "w") as lock:
        # Two that build the same image would be in each other's way.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, tag in references.items():
            takers = [taker for taker in [consecution, docker] if taker and tag not in taker.images()]
            if takers:
                print(f"programs: building image {name}, which may take some minutes", flush=True)
                archive = build(description, name, work)
                for taker in takers:
                    for old in taker.images():
                        if old.startswith(reference(name, "")):
                            taker.remove(old)
                    taker.load(tag, archive)
                archive.unlink()
    return references
