//! Asking a credential helper, `docker-credential-<name>`.
//!
//! It is a program of somebody else, found in `PATH`: it may be missing, fail, talk
//! without end, or wait for somebody to type a password.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Credential, CredentialsError};
use crate::causes::Cause;

/// The most bytes of a helper's answer that are read: a name and a secret.
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// The most characters of a helper's message that are shown: some lines.
const SAID_CHARS_MAX: usize = 400;
/// How long to wait for a helper's standard error after its end: something that it left
/// behind may hold the other end.
const SAID_WITHIN: Duration = Duration::from_millis(200);
/// The first bytes of a helper that are searched for its interpreter, as many as the
/// kernel reads.
const INTERPRETER_BYTES_MAX: u64 = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<name>`, and waits for it for a bounded time.
pub(super) async fn ask(
    name: &str,
    server: &str,
    patience: Duration,
) -> Result<Option<Credential>, CredentialsError> {
    let helper = format!("docker-credential-{name}");
    let failed = |problem: Cause| CredentialsError::Helper {
        helper: helper.clone(),
        server: server.to_owned(),
        problem,
    };
    if name.contains('/') {
        return Err(failed("its name must not contain '/'".into()));
    }
    let mut child = tokio::process::Command::new(&helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => failed(missing(&helper).into()),
            _ => failed(cause.into()),
        })?;
    let group = child.id();
    let answer = tokio::time::timeout(patience, converse(&mut child, server)).await;
    if answer.is_err() {
        kill_group(group);
    }
    let Said {
        succeeded,
        output,
        error,
    } = answer
        .map_err(|_| {
            let problem = format!(
                "no answer within {} s; it was killed. Does it wait for a password?",
                patience.as_secs_f32()
            );
            failed(problem.into())
        })?
        .map_err(|cause| failed(cause.into()))?;
    if succeeded {
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| failed("its answer is not the JSON of a credential helper".into()))?;
        return Ok(credential_of(answer));
    }
    let said = String::from_utf8_lossy(&output);
    // In the protocol of helpers, nothing but this text says that there are none.
    if said.contains("credentials not found") {
        return Ok(None);
    }
    let said = shown(&[&said, &String::from_utf8_lossy(&error)]);
    Err(failed(format!("it failed and says: {said}").into()))
}

/// What is missing of a helper that cannot be found.
fn missing(helper: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(helper));
    let Some(there) = places.find(|place| place.exists()) else {
        return "it is not in PATH; install it or take it out of config.json".to_owned();
    };
    let mut start = Vec::new();
    if let Ok(file) = crate::regular::open(&there) {
        let _ = io::Read::read_to_end(&mut io::Read::take(file, INTERPRETER_BYTES_MAX), &mut start);
    }
    let line = start.split(|&byte| byte == b'\n').next();
    let interpreter = line.and_then(|line| line.strip_prefix(b"#!"));
    let what = match interpreter {
        Some(line) => {
            let line = String::from_utf8_lossy(line);
            format!("its interpreter {}", line.trim())
        }
        None => "the loader that it needs".to_owned(),
    };
    format!(
        "it is {}, but {what} is not there; install that",
        there.display()
    )
}

/// What a helper says, in one line.
fn shown(texts: &[&str]) -> String {
    let words: Vec<&str> = texts
        .iter()
        .flat_map(|text| text.split_whitespace())
        .collect();
    match words.join(" ") {
        text if text.is_empty() => "nothing".to_owned(),
        text => text.chars().take(SAID_CHARS_MAX).collect(),
    }
}

/// How a helper ended, and what it wrote.
struct Said {
    succeeded: bool,
    output: Vec<u8>,
    error: Vec<u8>,
}

async fn converse(child: &mut tokio::process::Child, server: &str) -> io::Result<Said> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let stderr = child.stderr.take();
    let mut error = Vec::new();
    let complain = async {
        if let Some(stderr) = stderr {
            let _ = stderr.take(ANSWER_BYTES_MAX).read_to_end(&mut error).await;
        }
    };
    let answer = async {
        if let Some(mut stdin) = stdin {
            // A helper that does not read its input has still answered.
            let _ = stdin.write_all(server.as_bytes()).await;
        }
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            stdout
                .take(ANSWER_BYTES_MAX)
                .read_to_end(&mut output)
                .await?;
        }
        Ok::<_, io::Error>((child.wait().await?.success(), output))
    };
    let (succeeded, output) = {
        tokio::pin!(complain, answer);
        let mut complained = false;
        let answer = loop {
            tokio::select! {
                answer = &mut answer => break answer?,
                () = &mut complain, if !complained => complained = true,
            }
        };
        if !complained {
            let _ = tokio::time::timeout(SAID_WITHIN, complain).await;
        }
        answer
    };
    Ok(Said {
        succeeded,
        output,
        error,
    })
}

fn credential_of(answer: Answer) -> Option<Credential> {
    match answer.username.as_str() {
        "" if answer.secret.is_empty() => None,
        "<token>" => Some(Credential::Identity(answer.secret)),
        _ => Some(Credential::Basic {
            user: answer.username,
            password: answer.secret,
        }),
    }
}

fn kill_group(group: Option<u32>) {
    let pid = group
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}
