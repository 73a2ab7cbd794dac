//! Describes the machine, without anything that identifies it.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::place::{Place, find};

/// Processor, cores, memory, kernel, and the programs' versions.
pub(crate) fn describe(place: &Place) -> Value {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    json!({
        "cpu": entry("/proc/cpuinfo", "model name"),
        "cores": cores,
        "memory": entry("/proc/meminfo", "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_before": read("/proc/loadavg").split(' ').next(),
        "consecution": said(&place.program, "--version"),
        "commit": said(Path::new("git"), "describe --always --dirty"),
        "busybox": said(&place.busybox, "--help"),
        "nats-server": version("nats-server", "--version"),
        "nats-server GOGC": crate::servers::NATS_GOGC,
        "etcd": version("etcd", "--version"),
        "webhook": version("webhook", "-version"),
        "nginx": version("nginx", "-v"),
        "bwrap": version("bwrap", "--version"),
        "runc": version("runc", "--version"),
    })
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The value of the first line `name: value` in a file.
fn entry(path: &str, name: &str) -> String {
    let text = read(path);
    let mut entries = text.lines().filter_map(|line| line.split_once(':'));
    let found = entries.find(|(key, _)| key.trim() == name);
    found.map_or(String::new(), |(_, value)| value.trim().to_owned())
}

fn version(tool: &str, argument: &str) -> String {
    find(tool).map_or(String::new(), |tool| said(&tool, argument))
}

/// The first line that a command prints.
fn said(program: &Path, arguments: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments.split(' '));
    let output = command.stdin(Stdio::null()).output();
    let Ok(output) = output else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}
