//! Which key somebody probably meant.

/// What other programs call things, by the key that says it here. Compared
/// without case and without `_`, `-` and spaces.
const OTHER_NAMES: &[(&str, &[&str])] = &[
    (
        "Chain",
        &["links", "steps", "stages", "pipeline", "services"],
    ),
    ("Name", &["id", "title"]),
    ("Deadline", &["timeout", "timelimit", "maxtime"]),
    ("Image", &["from", "container", "imagename"]),
    (
        "Command",
        &["entrypoint", "cmd", "run", "exec", "executable", "program"],
    ),
    ("Arguments", &["args", "arg", "argv"]),
    (
        "Environment",
        &["env", "envs", "environ", "variables", "envvars"],
    ),
    (
        "WorkingDirectory",
        &["workdir", "workingdir", "cwd", "pwd", "directory", "dir"],
    ),
    ("User", &["username", "runas", "runasuser", "uid"]),
    ("Network", &["net", "networkmode", "networks", "networking"]),
    (
        "Constraints",
        &["limits", "resources", "limit", "quota", "deploy"],
    ),
    ("Memory", &["mem", "memorylimit", "memlimit", "ram"]),
    ("CPU", &["cpus", "cores", "cpulimit", "cpucount"]),
    (
        "Processes",
        &[
            "pids",
            "pidslimit",
            "pidlimit",
            "procs",
            "maxprocesses",
            "tasks",
            "nproc",
        ],
    ),
    (
        "CPUTime",
        &["cpuseconds", "cputimelimit", "processortime", "timecpu"],
    ),
    (
        "Scratch",
        &["tmp", "tmpfs", "disk", "ephemeralstorage", "storage"],
    ),
    (
        "OpenFiles",
        &[
            "nofile",
            "fds",
            "filedescriptors",
            "descriptors",
            "maxfiles",
        ],
    ),
    ("Input", &["in", "stdin", "inputfile", "infile"]),
    (
        "Output",
        &["out", "stdout", "outputfile", "outfile", "maxoutput"],
    ),
    ("Files", &["file", "configs", "config", "configfiles"]),
    (
        "Data",
        &["volumes", "volume", "mounts", "mount", "datasets", "models"],
    ),
    ("Secrets", &["secret", "credentials", "keys"]),
    ("Warm", &["prewarm", "reserve", "poolsize", "warmup"]),
    ("Writable", &["writeable", "rw"]),
    (
        "ContentType",
        &["mimetype", "mime", "mediatype", "type", "outputtype"],
    ),
    (
        "Parameters",
        &[
            "params",
            "param",
            "inputs",
            "query",
            "options",
            "placeholders",
        ],
    ),
    (
        "Pattern",
        &["regex", "regexp", "match", "matches", "format"],
    ),
    ("Default", &["defaultvalue", "value", "fallback"]),
    ("Text", &["content", "contents", "body"]),
    ("Base64", &["b64", "binary", "bytes"]),
    ("Mode", &["permissions", "chmod", "perm", "perms"]),
    ("Retries", &["retry", "restarts", "attempts", "restart"]),
    (
        "AcceptedExitCodes",
        &[
            "exitcodes",
            "exitcode",
            "successexitcodes",
            "allowedexitcodes",
            "successcodes",
        ],
    ),
];

/// Bytes beyond which a word is no misspelling of a key.
const MAX_WORD_BYTES: usize = 40;

/// The key that was probably meant, if any is near.
pub(crate) fn nearest<'k>(word: &str, keys: &[&'k str]) -> Option<&'k str> {
    let word = simplified(word);
    if word.is_empty() || word.len() > MAX_WORD_BYTES {
        return None;
    }
    let same = |key: &&&str| simplified(key) == word;
    let other_name = |key: &&&str| {
        OTHER_NAMES
            .iter()
            .any(|(name, others)| name == *key && others.contains(&word.as_str()))
    };
    let exact = keys
        .iter()
        .find(same)
        .or_else(|| keys.iter().find(other_name));
    exact.copied().or_else(|| {
        let distances = keys
            .iter()
            .map(|key| (strsim::osa_distance(&word, &simplified(key)), *key));
        let (distance, key) = distances.min_by_key(|(distance, _)| *distance)?;
        (distance <= key.len().min(word.len()) / 3).then_some(key)
    })
}

fn simplified(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_name_is_simplified_and_stands_for_one_key() {
        let mut seen = std::collections::BTreeSet::new();
        for other in OTHER_NAMES.iter().flat_map(|(_, others)| *others) {
            assert_eq!(simplified(other), *other);
            assert!(seen.insert(other), "{other}");
        }
    }

    #[test]
    fn the_nearest_key_is_found() {
        let keys = [
            "Image",
            "Command",
            "Arguments",
            "Environment",
            "WorkingDirectory",
            "User",
        ];
        for (word, key) in [
            ("Comand", Some("Command")),
            ("command", Some("Command")),
            ("Args", Some("Arguments")),
            ("env", Some("Environment")),
            ("Entrypoint", Some("Command")),
            ("working_directory", Some("WorkingDirectory")),
            ("imgae", Some("Image")),
            ("Usr", Some("User")),
            ("x", None),
            ("", None),
            ("Volumes", None),
        ] {
            assert_eq!(nearest(word, &keys), key, "{word}");
        }
        assert_eq!(nearest(&"Image".repeat(1000), &keys), None);
    }
}
