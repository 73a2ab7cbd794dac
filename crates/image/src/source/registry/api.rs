//! The URLs of a registry or of a mirror. Pure.

use reqwest::Url;

/// How the URLs of a registry or mirror are made.
pub(super) struct Api {
    /// `https://host/v2`, without a slash at its end.
    base: String,
    /// What stands before each repository, `hub/`, where a mirror is a part of a
    /// registry that has several.
    prefix: String,
    /// `?ns=docker.io`, by which a mirror of several registries tells them apart.
    query: String,
}

impl Api {
    /// Of a registry of its own, at this URL.
    pub(super) fn at(base: &str) -> Self {
        Self {
            base: format!("{}/v2", base.trim_end_matches('/')),
            prefix: String::new(),
            query: String::new(),
        }
    }

    /// Of a mirror of a registry. Where its URL has a `v2`, as containerd's with
    /// `override_path` have, what follows it stands before the repository.
    pub(super) fn of_mirror(url: &Url, registry: &str) -> Self {
        let text = url.as_str().trim_end_matches('/');
        let end = text.len() - url.path().trim_end_matches('/').len();
        let (host, path) = text.split_at(end);
        let parts: Vec<&str> = path.split('/').collect();
        let mut api = match parts.iter().position(|part| *part == "v2") {
            Some(place) => Self {
                base: format!("{host}{}", parts[..=place].join("/")),
                prefix: parts[place + 1..]
                    .iter()
                    .map(|part| format!("{part}/"))
                    .collect(),
                query: String::new(),
            },
            None => Self::at(text),
        };
        let mut query = url.clone();
        query.query_pairs_mut().append_pair("ns", registry);
        api.query = format!("?{}", query.query().unwrap_or_default());
        api
    }

    /// The URL of a path below a repository.
    pub(super) fn url(&self, repository: &str, path: &str) -> String {
        let Self {
            base,
            prefix,
            query,
        } = self;
        format!("{base}/{prefix}{repository}/{path}{query}")
    }

    /// Where every registry answers, and says whether it wants to know who asks.
    pub(super) fn ping_url(&self) -> String {
        format!("{}/", self.base)
    }

    /// What may be done with a repository, as tokens have it.
    pub(super) fn scope(&self, repository: &str) -> String {
        format!("repository:{}{repository}:pull", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub_by(mirror: &str) -> Api {
        Api::of_mirror(&mirror.parse().unwrap(), "docker.io")
    }

    #[test]
    fn mirrors_may_be_below_a_path() {
        for (mirror, asked) in [
            ("https://m", "https://m/v2/a/b/tags?ns=docker.io"),
            ("https://m:1/", "https://m:1/v2/a/b/tags?ns=docker.io"),
            ("https://m/x/y/", "https://m/x/y/v2/a/b/tags?ns=docker.io"),
            ("https://m/v2", "https://m/v2/a/b/tags?ns=docker.io"),
            ("https://m/v2/hub", "https://m/v2/hub/a/b/tags?ns=docker.io"),
            (
                "https://m/x/v2/y/z//",
                "https://m/x/v2/y/z/a/b/tags?ns=docker.io",
            ),
        ] {
            assert_eq!(hub_by(mirror).url("a/b", "tags"), asked);
        }
        let hub = hub_by("https://m/v2/hub");
        assert_eq!(hub.scope("a/b"), "repository:hub/a/b:pull");
        assert_eq!(hub.ping_url(), "https://m/v2/");
        assert_eq!(Api::at("https://r").url("a", "tags"), "https://r/v2/a/tags");
    }
}
