//! Figures of runners: a portal asks all of them at once, and each answers to its inbox.
//!
//! What a server's permissions deny is off: then a portal hears nothing, or nobody asks.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::requests::Topic;
use super::connection::{Shared, publish};
use super::server::answerable;
use super::wire::kind::{Kind, kind};
use super::wire::subject;
use crate::transport::Registration;

/// How long a portal waits for answers. All that are told at all come within some
/// milliseconds; the rest are of runners that hang.
const ANSWERS_WAIT_MAX: Duration = Duration::from_millis(400);

/// How long a question may wait to be sent.
const SEND_WAIT_MAX: Duration = Duration::from_millis(200);

/// The most answers that a portal takes, and the most bytes of all of them together.
const ANSWERS_MAX: usize = 1024;
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a runner rests after an answer: who floods it with questions gets no more.
const ANSWER_REST: Duration = Duration::from_millis(10);

/// How long a runner gives the same answer again, so that nobody makes it count all the time.
const ANSWER_AGE_MAX: Duration = Duration::from_millis(250);

/// The most bytes of an answer, beside what the server allows. Portals ignore larger ones.
const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// Answers each question with what `figures` gives, which gets the most bytes that it may
/// have, until the registration is dropped.
pub(crate) fn answer(
    shared: Arc<Shared>,
    figures: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static,
) -> Registration {
    let (withdraw, mut withdrawn) = oneshot::channel::<()>();
    let answering = tokio::spawn(async move {
        let mut questions = shared.requests().subscribe(Topic::Stats);
        let mut last: Option<(Instant, Bytes)> = None;
        loop {
            let question = tokio::select! {
                biased;
                _ = &mut withdrawn => return,
                question = questions.next() => question,
            };
            let Some(question) = question else { return };
            let Some(reply) = question.reply.as_deref().and_then(answerable) else {
                continue;
            };
            let Some(client) = shared.connected_now() else {
                continue;
            };
            let bytes_max = client.max_payload().min(ANSWER_BYTES_MAX);
            let answer = match &last {
                Some((at, answer)) if at.elapsed() < ANSWER_AGE_MAX => answer.clone(),
                _ => figures(bytes_max / 2).into(),
            };
            last = Some((Instant::now(), answer.clone()));
            // On the connection of the question: with `allow_responses` a server lets a
            // runner answer nowhere else. If it fails, the next answer tells the same.
            let (requests, headers) = (shared.requests(), HeaderMap::new());
            let _ = requests.answer(&reply, &headers, &answer, bytes_max).await;
            sleep(ANSWER_REST).await;
        }
    });
    Registration::new(withdraw, async {
        let _ = answering.await;
    })
}

/// Asks all runners for their figures; returns their answers as they are.
pub(crate) async fn ask(shared: &Shared) -> Vec<Bytes> {
    let mut answers = Vec::new();
    let Some(client) = shared.connected_now() else {
        return answers;
    };
    let until = Instant::now() + ANSWERS_WAIT_MAX;
    let mut mailbox = shared.inbox.open();
    let (question, reply) = (subject::STATS.into(), Some(mailbox.subject.clone()));
    let (headers, nothing) = (HeaderMap::new(), Bytes::new());
    if publish(&client, question, reply, headers, nothing, SEND_WAIT_MAX)
        .await
        .is_err()
    {
        return answers;
    }
    let mut bytes = 0;
    while answers.len() < ANSWERS_MAX && bytes < ANSWERS_BYTES_MAX {
        match timeout_at(until, mailbox.messages.recv()).await {
            Ok(Some(message)) if kind(&message) == Kind::NoResponders => break,
            // Not one of ours.
            Ok(Some(message)) if message.payload.len() > ANSWER_BYTES_MAX => {}
            Ok(Some(message)) => {
                bytes += message.payload.len();
                answers.push(message.payload);
            }
            Ok(None) | Err(_) => break,
        }
    }
    answers
}
