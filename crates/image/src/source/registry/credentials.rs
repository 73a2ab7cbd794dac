//! Credentials as Docker's tools keep them: `config.json` and its helpers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Most bytes of `config.json` and of a helper's answer that are read.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// Most characters of what a helper says that are shown.
const SAID_CHARS_MAX: usize = 400;
/// How long what a helper has written to standard error may take to come, once it
/// has ended: something that it left behind may hold the other end.
const SAID_WITHIN: Duration = Duration::from_millis(200);
/// Most bytes of a helper in which its interpreter is looked for.
const INTERPRETER_BYTES_MAX: u64 = 256;

/// Docker Hub has this key, whatever it is called elsewhere.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// `config.json` cannot be read.
    #[error("read credentials from {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// `config.json` is not what Docker writes.
    #[error("understand {path}: {problem}; 'docker login' writes it")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A credential helper failed, or took too long.
    #[error("get credentials for {server} from {helper}: {problem}")]
    Helper {
        /// The program.
        helper: String,
        /// For which registry.
        server: String,
        /// What went wrong and what to do.
        problem: String,
    },
}

/// What is shown to a registry or to its token server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    Basic {
        user: String,
        password: String,
    },
    /// Exchanged for access tokens.
    Identity(String),
    /// Used as it is.
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(…)")
    }
}

/// Docker's `config.json`, the part about registries.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    path: PathBuf,
    raw: Raw,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.path.display())
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    auths: Option<BTreeMap<String, Option<Auth>>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Credentials {
    pub(crate) fn from_environment() -> Result<Self, CredentialsError> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = set("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".docker")));
        let Some(file) = folder.map(|folder| folder.join("config.json")) else {
            return Ok(Self::default());
        };
        match Self::from_file(&file) {
            Err(CredentialsError::Unreadable { cause, .. })
                if cause.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Self::default())
            }
            other => other,
        }
    }

    pub(crate) fn from_file(path: &Path) -> Result<Self, CredentialsError> {
        let unreadable = |cause| CredentialsError::Unreadable {
            path: path.to_owned(),
            cause,
        };
        let malformed = |problem: String| CredentialsError::Malformed {
            path: path.to_owned(),
            problem,
        };
        let file = crate::regular::open(path).map_err(unreadable)?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, CONFIG_BYTES_MAX + 1), &mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > CONFIG_BYTES_MAX {
            return Err(malformed(format!(
                "it is larger than {CONFIG_BYTES_MAX} bytes"
            )));
        }
        let raw = read(&text).map_err(|cause| malformed(cause.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            raw,
        })
    }

    /// The credential for a registry, `None` where there is none: anonymous.
    pub(crate) async fn get(
        &self,
        registry: &str,
        patience: Duration,
    ) -> Result<Option<Credential>, CredentialsError> {
        let keys = keys(registry);
        let asked = self.ask_helper(&keys, patience).await;
        if let Ok(Some(_)) = asked {
            return asked;
        }
        // What stands in the file itself is as good, whatever a helper says.
        let found = match self.find_auth(&keys) {
            Some(auth) => self.read_auth(registry, auth)?,
            None => None,
        };
        match asked {
            Err(error) if found.is_none() => Err(error),
            _ => Ok(found),
        }
    }

    /// Asks the helper for a registry, where there is one, else the one for all.
    async fn ask_helper(
        &self,
        keys: &[&str],
        patience: Duration,
    ) -> Result<Option<Credential>, CredentialsError> {
        let helpers = self.raw.cred_helpers.as_ref();
        let own = keys
            .iter()
            .find_map(|key| Some((*key, helpers?.get(*key)?.as_deref()?)));
        let store = self
            .raw
            .creds_store
            .as_deref()
            .map(|helper| (keys[0], helper));
        match own.filter(|(_, helper)| !helper.is_empty()).or(store) {
            Some((key, helper)) if !helper.is_empty() => ask(helper, key, patience).await,
            _ => Ok(None),
        }
    }

    /// Would there be a credential, as far as the file itself says?
    #[cfg(fuzzing)]
    pub(crate) fn knows(&self, registry: &str) -> bool {
        let auth = self.find_auth(&keys(registry));
        auth.is_some_and(|auth| matches!(self.read_auth(registry, auth), Ok(Some(_))))
    }

    fn find_auth(&self, keys: &[&str]) -> Option<&Auth> {
        let auths = self.raw.auths.as_ref()?;
        let exact = keys.iter().find_map(|key| auths.get(*key));
        let same_host = || auths.iter().find(|(key, _)| keys.contains(&host_of(key)));
        exact
            .or_else(|| same_host().map(|(_, auth)| auth))?
            .as_ref()
    }

    fn read_auth(
        &self,
        registry: &str,
        auth: &Auth,
    ) -> Result<Option<Credential>, CredentialsError> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = some(&auth.registrytoken) {
            return Ok(Some(Credential::Bearer(token)));
        }
        if let Some(token) = some(&auth.identitytoken) {
            return Ok(Some(Credential::Identity(token)));
        }
        if let Some(encoded) = some(&auth.auth) {
            let decoded = decode(&encoded).ok_or_else(|| CredentialsError::Malformed {
                path: self.path.clone(),
                problem: format!("'auth' of '{registry}' is not base64 of user:password"),
            })?;
            return Ok(Some(decoded));
        }
        Ok(some(&auth.username)
            .zip(some(&auth.password))
            .map(|(user, password)| Credential::Basic { user, password }))
    }
}

/// Reads a `config.json`. Editors write a mark before it, and one that says nothing
/// is one all the same.
fn read(text: &[u8]) -> serde_json::Result<Raw> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Ok(Raw::default());
    }
    serde_json::from_slice::<Option<Raw>>(text).map(Option::unwrap_or_default)
}

fn decode(encoded: &str) -> Option<Credential> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
    let text = String::from_utf8(engine.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.trim_end_matches('\0').split_once(':')?;
    Some(Credential::Basic {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

/// The names under which a registry's credentials may stand, usual one first.
fn keys(registry: &str) -> Vec<&str> {
    match registry {
        "docker.io" => vec![
            HUB_KEY,
            "index.docker.io",
            "docker.io",
            "registry-1.docker.io",
        ],
        other => vec![other],
    }
}

fn host_of(key: &str) -> &str {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    rest.unwrap_or(key).split('/').next().unwrap_or_default()
}

/// Asks `docker-credential-<name>`, and waits for it for a bounded time.
async fn ask(
    name: &str,
    server: &str,
    patience: Duration,
) -> Result<Option<Credential>, CredentialsError> {
    let helper = format!("docker-credential-{name}");
    let failed = |problem: String| CredentialsError::Helper {
        helper: helper.clone(),
        server: server.to_owned(),
        problem,
    };
    if name.contains('/') {
        return Err(failed("its name must not contain '/'".to_owned()));
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
            io::ErrorKind::NotFound => failed(missing(&helper)),
            _ => failed(cause.to_string()),
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
            failed(format!(
                "no answer within {} s; it was killed. Does it wait for a password?",
                patience.as_secs_f32()
            ))
        })?
        .map_err(|cause| failed(cause.to_string()))?;
    if succeeded {
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| failed("its answer is not the JSON of a credential helper".to_owned()))?;
        return Ok(credential_of(answer));
    }
    let said = String::from_utf8_lossy(&output);
    if said.contains("credentials not found") {
        return Ok(None);
    }
    let said = shown(&[&said, &String::from_utf8_lossy(&error)]);
    Err(failed(format!("it failed and says: {said}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Credentials {
        Credentials {
            path: "config.json".into(),
            raw: read(text.as_bytes()).unwrap(),
        }
    }

    fn auth(config: &Credentials, registry: &str) -> Option<Credential> {
        let auth = config.find_auth(&keys(registry))?;
        config.read_auth(registry, auth).unwrap()
    }

    #[test]
    fn what_docker_login_writes_is_found() {
        let config = config(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpwOjI="},"https://a.example/v2/":{"identitytoken":"t"},"b.example:5000":{"username":"x","password":"y"},"c.example":{}}}"#,
        );
        let basic = |user: &str, password: &str| {
            Some(Credential::Basic {
                user: user.into(),
                password: password.into(),
            })
        };
        assert_eq!(auth(&config, "docker.io"), basic("u", "p:2"));
        assert_eq!(
            auth(&config, "a.example"),
            Some(Credential::Identity("t".into()))
        );
        assert_eq!(auth(&config, "b.example:5000"), basic("x", "y"));
        assert_eq!(auth(&config, "c.example"), None);
        assert_eq!(auth(&config, "b.example"), None);
    }

    #[test]
    fn a_config_that_says_nothing_is_one() {
        let empty = [
            "",
            " \n",
            "null",
            "{}",
            "\u{feff}",
            "\u{feff}{}",
            "\u{feff}null\n",
        ];
        let nothing = [
            r#"{"auths":null,"credHelpers":null,"credsStore":null}"#,
            r#"{"auths":{"x":null},"credHelpers":{"x":null},"credsStore":""}"#,
        ];
        for text in empty.into_iter().chain(nothing) {
            assert_eq!(auth(&config(text), "x"), None, "{text:?}");
        }
        let config = config("\u{feff}{\"auths\":{\"x\":{\"auth\":\"dTpw\"}}}");
        assert!(auth(&config, "x").is_some());
        assert!(read(b"not json").is_err() && read(b"\xff\xfe{\0}\0").is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Credential::Identity("hunter2".into());
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
