//! The same through `serve`, and through a portal, NATS and a runner: again and again, so
//! that the links of a chain are called cold at first, and then warm as one pipeline.

use std::time::{Duration, Instant};

use super::reference::Pipeline;
use super::{cases, judge, links};
use crate::support::chain::{ChainFile, chain_with};
use crate::support::http::{Reply, Served, serve};
use crate::support::network::{Servers, until_ready};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// How many chains there are.
const CHAINS: usize = 30;

/// How often each is called; at the second time it is known that it is called again.
const ROUNDS: usize = 4;

/// Chains, what they are given, and what the shell makes of that.
struct Cases {
    files: Vec<ChainFile>,
    cases: Vec<(Vec<u8>, Pipeline)>,
}

impl Cases {
    fn random() -> Cases {
        let mut runner = TestRunner::deterministic();
        let (mut files, mut found) = (Vec::new(), Vec::new());
        for number in 0..CHAINS {
            let case = cases().new_tree(&mut runner).unwrap().current();
            let input = case.input.bytes();
            let pipeline = Pipeline::evaluate(&case.stages, &input);
            let top = format!("Name: case{number}");
            files.push(chain_with(&top, links(&pipeline)));
            found.push((input, pipeline));
        }
        Cases {
            files,
            cases: found,
        }
    }

    fn files(&self) -> Vec<&ChainFile> {
        self.files.iter().collect()
    }

    /// Calls all of them, and compares.
    fn compare(&self, served: &Served) {
        until_ready(served);
        for round in 0..ROUNDS {
            for (number, (input, pipeline)) in self.cases.iter().enumerate() {
                let began = Instant::now();
                let reply = served.post(&format!("/chains/case{number}"), input);
                let judged = judge_reply(pipeline, &reply, began.elapsed());
                if let Err(problem) = judged {
                    panic!("round {round}: {problem}\npipeline: {}", pipeline.script());
                }
            }
        }
    }
}

pub(super) fn judge_reply(
    pipeline: &Pipeline,
    reply: &Reply,
    elapsed: Duration,
) -> Result<(), String> {
    match reply.status {
        200 if reply.is_complete => judge(pipeline, 0, &reply.body, elapsed),
        // It failed after its first byte, and how is not said any more.
        200 => match pipeline.output().starts_with(&reply.body) {
            true => Ok(()),
            false => Err("no prefix of what the shell prints".to_owned()),
        },
        502 => {
            let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
            let number = |name: &str| problem[name].as_i64().and_then(|of| i32::try_from(of).ok());
            let signal = number("signal").map(|signal| signal + 128);
            let Some(code) = number("exit_code").or(signal) else {
                return Err(problem.to_string());
            };
            judge(pipeline, code, b"", elapsed)?;
            let (at, stderr) = failed_link(&problem);
            match pipeline.may_have_said(at, stderr) {
                true => Ok(()),
                false => Err(format!("link {at} said {stderr:?} on standard error")),
            }
        }
        status => Err(format!("{status}: {}", reply.body.escape_ascii())),
    }
}

/// Which link a problem is about, and the end of what that said on standard error.
pub(super) fn failed_link(problem: &serde_json::Value) -> (usize, &str) {
    let at = problem["link_index"].as_u64().unwrap();
    let stderr = problem["stderr"].as_str().unwrap();
    (usize::try_from(at).unwrap(), stderr)
}

#[test]
fn a_chain_that_is_served_is_a_pipeline() {
    let cases = Cases::random();
    cases.compare(&serve(&cases.files()));
}

#[test]
fn a_chain_on_runners_is_a_pipeline() {
    let Some(servers) = Servers::start() else {
        cannot_run_here!("nats-server, etcd or etcdctl is missing");
    };
    let cases = Cases::random();
    let _runner = servers.runner("one");
    cases.compare(&servers.portal(&cases.files()));
}
