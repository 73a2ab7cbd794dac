//! Credentials as Docker's tools keep them: `config.json` and its helpers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64_NOPAD;
use serde::Deserialize;

mod helper;

use crate::causes::Cause;
use helper::ask;

/// The most bytes of `config.json`; real ones have some KiB.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Docker Hub has this key, whatever it is called elsewhere.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Credentials cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// `config.json` cannot be read.
    #[error("read credentials from {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// `config.json` is not what Docker writes.
    #[error("understand {path}, which 'docker login' writes")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        problem: Cause,
    },
    /// A credential helper failed, or took too long.
    #[error("get credentials for {server} from {helper}")]
    Helper {
        /// The program.
        helper: String,
        /// For which registry.
        server: String,
        /// What went wrong and what to do.
        #[source]
        problem: Cause,
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
        let malformed = |problem: Cause| CredentialsError::Malformed {
            path: path.to_owned(),
            problem,
        };
        let file = crate::regular::open(path).map_err(unreadable)?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, CONFIG_BYTES_MAX + 1), &mut text)
            .map_err(unreadable)?;
        if text.len() as u64 > CONFIG_BYTES_MAX {
            let problem = format!("it is larger than {CONFIG_BYTES_MAX} bytes");
            return Err(malformed(problem.into()));
        }
        let raw = read(&text).map_err(|cause| malformed(cause.into()))?;
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
        // Credentials in the file itself are as good, whatever a helper says.
        let found = match self.find_auth(&keys) {
            Some(auth) => self.read_auth(registry, auth)?,
            None => None,
        };
        match asked {
            Err(error) if found.is_none() => Err(error),
            _ => Ok(found),
        }
    }

    /// Asks the helper for this registry, if there is one, otherwise the helper for all.
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
                problem: format!("'auth' of '{registry}' is not base64 of user:password").into(),
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
    // Not all tools pad it.
    let encoded = encoded.trim().trim_end_matches('=');
    let text = String::from_utf8(BASE64_NOPAD.decode(encoded.as_bytes()).ok()?).ok()?;
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
