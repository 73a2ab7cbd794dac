//! A connection to one of etcd's servers at a time. It moves on to the next server if one
//! does not answer, and logs that.
//!
//! It must not know what is stored in etcd.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, FailureKind};
use super::options::{self, EtcdError};
use crate::config::EtcdOptions;
use crate::connection::Connection;
use crate::error::{FailedTo, with_causes};
use crate::log_on_change::LogOnChange;

/// The longest time for an operation, over all servers that it asks: long enough for a
/// cluster to elect a leader.
const CALL_SECONDS_MAX: u64 = 5;

/// The longest time to sign in at a server: less than for an operation, so that another
/// server can be asked within it.
const LOG_IN_SECONDS_MAX: u64 = 3;

/// The etcd servers, and the state of the connection to them.
pub(super) struct Session {
    options: EtcdOptions,
    endpoints: Vec<String>,
    server: tokio::sync::Mutex<Server>,
    connection: watch::Sender<Connection>,
    trouble: Mutex<Trouble>,
}

/// What has gone wrong since etcd last answered.
struct Trouble {
    /// The last error of each endpoint. Sorted, so that the text stays the same.
    reasons: BTreeMap<String, String>,
    log: LogOnChange,
}

/// The server in use.
struct Server {
    /// Modulo the number of endpoints, the index of its endpoint.
    turn: usize,
    /// The connection to it, if there is one.
    client: Option<Client>,
    /// The number of the connection; tells connections apart.
    generation: u64,
}

/// A connection, with its endpoint and number.
struct Connected {
    client: Client,
    endpoint: String,
    generation: u64,
}

/// Why one server did not do what was asked.
struct FailedAttempt {
    endpoint: String,
    failure: Failure,
}

impl Session {
    pub(super) fn new(options: &EtcdOptions) -> Result<Session, EtcdError> {
        let endpoints = options::checked_endpoints(options)?;
        let server = Server {
            // Random, so that not all clients use the same server.
            turn: RandomState::new().hash_one(()) as usize >> 1,
            client: None,
            generation: 0,
        };
        let waiting = Connection::Waiting("etcd was not asked anything yet".into());
        Ok(Session {
            options: options.clone(),
            endpoints,
            server: tokio::sync::Mutex::new(server),
            connection: watch::Sender::new(waiting),
            trouble: Mutex::new(Trouble {
                reasons: BTreeMap::new(),
                log: super::log_on_change(),
            }),
        })
    }

    pub(super) fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }

    /// Resolves when the last operation got no answer.
    pub(super) async fn is_in_trouble(&self) {
        let mut connection = self.connection();
        // It cannot be closed as long as there is a session.
        let _ = connection.wait_for(|it| *it != Connection::Connected).await;
    }

    /// Runs an operation on etcd: on the server that answered last, then on the others.
    /// `ask` may be called more than once.
    pub(super) async fn call<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + Duration::from_secs(CALL_SECONDS_MAX);
        // One attempt more than there are servers: the first may only find that the
        // connection, or our authentication token, is no longer valid.
        for _ in 0..=self.endpoints.len() {
            let FailedAttempt { endpoint, failure } = match self.attempt(&ask, deadline).await {
                Ok(answer) => {
                    self.say_connected();
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            if failure.kind.is_answer() {
                // If etcd has answered before, the connection still counts as up: the
                // refusal concerns only this operation.
                if *self.connection.borrow() != Connection::Connected {
                    self.say_waiting(&failure.reason);
                }
                return Err(failure);
            }
            self.trouble.lock().reasons.insert(endpoint, failure.reason);
            if Instant::now() >= deadline {
                break;
            }
        }
        let failure = Failure::unreachable(self.trouble.lock().to_string());
        self.say_waiting(&failure.reason);
        Err(failure)
    }

    /// Asks one server.
    async fn attempt<T, F>(
        &self,
        ask: impl Fn(Client) -> F,
        deadline: Instant,
    ) -> Result<T, FailedAttempt>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let connected = self.connected(deadline).await?;
        let failure = match timeout_at(deadline, ask(connected.client)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::from(error),
            Err(_) => Failure::unreachable(format!("no answer within {CALL_SECONDS_MAX} s")),
        };
        if !failure.kind.is_answer()
            && let Ok(mut server) = timeout_at(deadline, self.server.lock()).await
            // Another operation may have replaced the connection already.
            && server.generation == connected.generation
            && server.client.take().is_some()
        {
            server.turn += usize::from(failure.kind == FailureKind::Unreachable);
        }
        Err(FailedAttempt {
            endpoint: connected.endpoint,
            failure,
        })
    }

    /// The present connection, or a new one.
    async fn connected(&self, deadline: Instant) -> Result<Connected, FailedAttempt> {
        let Ok(mut server) = timeout_at(deadline, self.server.lock()).await else {
            return Err(FailedAttempt {
                endpoint: self.endpoints.join(", "),
                failure: Failure::unreachable("others are still trying to connect"),
            });
        };
        let index = server.turn % self.endpoints.len().max(1);
        let endpoint = self.endpoints.get(index).cloned().unwrap_or_default();
        let client = match &server.client {
            Some(client) => client.clone(),
            None => match self.connect(&endpoint, deadline).await {
                Ok(client) => {
                    server.generation += 1;
                    server.client.insert(client).clone()
                }
                Err(failure) => {
                    server.turn += 1;
                    if failure.kind.is_answer() {
                        self.say_waiting(&failure.reason);
                    }
                    return Err(FailedAttempt { endpoint, failure });
                }
            },
        };
        Ok(Connected {
            client,
            endpoint,
            generation: server.generation,
        })
    }

    /// Makes a connection. With a user, this signs in; without, the client connects only when
    /// it is first used.
    async fn connect(&self, endpoint: &str, deadline: Instant) -> Result<Client, Failure> {
        let connect_options = self.connect_options(endpoint).await?;
        let deadline = deadline.min(Instant::now() + Duration::from_secs(LOG_IN_SECONDS_MAX));
        let connecting = Client::connect([endpoint], Some(connect_options));
        match timeout_at(deadline, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Failure::unreachable(format!(
                "no answer within {LOG_IN_SECONDS_MAX} s"
            ))),
        }
    }

    async fn connect_options(&self, endpoint: &str) -> Result<ConnectOptions, Failure> {
        let (endpoint, options) = (endpoint.to_owned(), self.options.clone());
        let reading = spawn_blocking(move || options::connect_options(&endpoint, &options));
        match reading.await {
            Ok(Ok(connect_options)) => Ok(connect_options),
            Ok(Err(error)) => Err(Failure::refused(with_causes(&FailedTo(error)))),
            Err(error) => Err(Failure::unreachable(error.to_string())),
        }
    }

    fn say_connected(&self) {
        let mut trouble = self.trouble.lock();
        trouble.reasons.clear();
        let is_new = self.connection.send_if_modified(|connection| {
            let is_new = *connection != Connection::Connected;
            *connection = Connection::Connected;
            is_new
        });
        if is_new && trouble.log.lets_all_is_well() {
            tracing::info!("connected to etcd at {}", self.endpoints.join(", "));
        }
    }

    fn say_waiting(&self, reason: &str) {
        let waiting = Connection::Waiting(reason.into());
        self.connection.send_if_modified(|connection| {
            let is_new = *connection != waiting;
            *connection = waiting;
            is_new
        });
        if self.trouble.lock().log.lets(reason) {
            tracing::warn!(target: crate::connection::TROUBLE, "waiting: {reason}");
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("etcd does not answer")?;
        for (endpoint, reason) in &self.reasons {
            write!(formatter, ", at {endpoint}: {reason}")?;
        }
        formatter.write_str("; check that it runs there and can be reached")
    }
}
