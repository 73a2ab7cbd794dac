//! `consecution top`: what a portal or `serve` does, on a terminal, from its `/stats`.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{Certificate, Client, Response, StatusCode};
use rustix::termios::tcgetwinsize;
use tokio_rustls::rustls::crypto::ring;

use super::signals::Signals;
use crate::text;
use figures::{Figures, Window};

mod figures;
mod screen;

/// How long to wait for a connection, and for the next figures, which come once a second.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The most bytes of one event.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The rows of a terminal that does not say how many it has.
const ROWS_DEFAULT: usize = 24;

/// The arguments of `top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address of the portal or of `serve`.
    #[arg(
        long,
        env = "CONSECUTION_URL",
        value_name = "URL",
        default_value = "http://localhost:8080"
    )]
    url: String,
    /// Shows the figures of one second, and ends.
    #[arg(long)]
    once: bool,
    /// Prints the figures as JSON, a line each second, as docs/http.md describes them.
    #[arg(long)]
    json: bool,
    /// File with the token of a key, where the portal asks for one.
    #[arg(long, env = "CONSECUTION_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// File with the certificates that the portal's may be signed by [default: those that
    /// this system trusts].
    #[arg(long, env = "CONSECUTION_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub(crate) fn top(arguments: Arguments) -> anyhow::Result<u8> {
    super::serving(run(arguments))?;
    Ok(0)
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let screen = Screen::open(&arguments);
    let following = follow(&arguments, &screen);
    tokio::select! {
        ended = following => ended,
        () = signals.next() => Ok(()),
    }
}

/// Shows figures as they come; to the end with `--once`, else for ever.
async fn follow(arguments: &Arguments, screen: &Screen) -> anyhow::Result<()> {
    let url = format!("{}/stats", arguments.url.trim_end_matches('/'));
    let mut events = Events {
        response: ask(arguments, &url).await?,
        held: Vec::new(),
        searched: 0,
    };
    let mut window = Window::default();
    // Whether a reply has given figures, so that asking again may give more.
    let mut has_some = false;
    loop {
        let next = events.next().await;
        let event = match next.with_context(|| format!("failed to follow {url}"))? {
            Some(event) => event,
            // The server ends each reply after a while, so that it checks the key again.
            None if has_some => {
                has_some = false;
                events = Events {
                    response: ask(arguments, &url).await?,
                    held: Vec::new(),
                    searched: 0,
                };
                continue;
            }
            None => bail!("failed to follow {url}: it has ended the reply and may be leaving"),
        };
        has_some = true;
        let figures: Figures = serde_json::from_slice(&event)
            .with_context(|| format!("failed to read what {url} gives: it is no portal"))?;
        if arguments.json {
            let mut out = std::io::stdout().lock();
            // Escapes of JSON, for what a terminal would take for its own.
            let event = String::from_utf8_lossy(event.trim_ascii());
            out.write_all(text::line(&event).as_bytes())?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
        let is_first = window.is_empty();
        window.add(figures);
        // Rates need two.
        if is_first && !arguments.json {
            continue;
        }
        if !arguments.json {
            screen.show(&window)?;
        }
        if arguments.once {
            return Ok(());
        }
    }
}

async fn ask(arguments: &Arguments, url: &str) -> anyhow::Result<Response> {
    // This fails if another part of the program has done it already, which is as good.
    let _ = ring::default_provider().install_default();
    let mut builder = Client::builder()
        .connect_timeout(WAIT_MAX)
        .read_timeout(WAIT_MAX);
    if let Some(file) = &arguments.ca {
        let read = || format!("failed to read {}", file.display());
        let pem = fs::read(file).with_context(read)?;
        let certificates = Certificate::from_pem_bundle(&pem).with_context(read)?;
        builder = builder.tls_certs_only(certificates);
    }
    let client = builder.build().context("failed to prepare for HTTP")?;
    let mut request = client
        .get(url)
        .header(ACCEPT, "text/event-stream")
        // No page can say so: the server may be asked under any name then.
        .header("sec-fetch-site", "none");
    if let Some(file) = &arguments.key_file {
        let token = fs::read_to_string(file);
        let token = token.with_context(|| format!("failed to read {}", file.display()))?;
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
    }
    let asked = request.send().await;
    let response = asked.with_context(|| {
        format!("failed to ask {url}: check that a portal or serve runs there (--url)")
    })?;
    match response.status() {
        StatusCode::OK => Ok(response),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            bail!("failed to ask {url}: it wants a key that may `view` (--key-file)")
        }
        StatusCode::NOT_FOUND => {
            bail!("failed to ask {url}: there is no portal of this version")
        }
        status => bail!("failed to ask {url}: it answers {status}"),
    }
}

/// The events of a reply.
struct Events {
    response: Response,
    /// What has come of the next one.
    held: Vec<u8>,
    /// How much of that has no end in it.
    searched: usize,
}

impl Events {
    /// The next one; `None` if the reply has come to its end.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        const END: &[u8] = b"\n\n";
        const DATA: &[u8] = b"data: ";
        loop {
            let new = self.held.get(self.searched..).unwrap_or_default();
            let end = new.windows(END.len()).position(|it| it == END);
            if let Some(at) = end {
                let rest = self.held.split_off(self.searched + at + END.len());
                self.searched = 0;
                let event = std::mem::replace(&mut self.held, rest);
                if let Some(data) = event.strip_prefix(DATA) {
                    return Ok(Some(data.to_vec()));
                }
                continue;
            }
            self.searched = self.held.len().saturating_sub(END.len() - 1);
            if self.held.len() > EVENT_BYTES_MAX {
                bail!("an event has more than {EVENT_BYTES_MAX} bytes");
            }
            match self.response.chunk().await? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// Where the tables go. On a terminal each takes the place of the one before, and what was
/// there before is there again at the end.
struct Screen {
    is_terminal: bool,
}

/// Escapes of terminals (ECMA-48, xterm): another screen and back; to the top left, and
/// clear what is below.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H\x1b[J";

impl Screen {
    fn open(arguments: &Arguments) -> Screen {
        let is_wanted = !arguments.once && !arguments.json;
        let screen = Screen {
            is_terminal: is_wanted && std::io::stdout().is_terminal(),
        };
        screen.say(ENTER);
        screen
    }

    fn say(&self, escape: &str) {
        if self.is_terminal {
            let mut out = std::io::stdout().lock();
            // If the terminal is gone, there is nothing to say.
            let _ = out.write_all(escape.as_bytes()).and_then(|()| out.flush());
        }
    }

    fn show(&self, window: &Window) -> anyhow::Result<()> {
        let size = self
            .is_terminal
            .then(|| tcgetwinsize(std::io::stdout()).ok());
        let rows = size.map(|size| {
            let rows = size.map_or(0, |size| usize::from(size.ws_row));
            if rows == 0 { ROWS_DEFAULT } else { rows }
        });
        let text = screen::text(window, rows);
        let mut out = std::io::stdout().lock();
        if self.is_terminal {
            out.write_all(HOME.as_bytes())?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.say(LEAVE);
    }
}
