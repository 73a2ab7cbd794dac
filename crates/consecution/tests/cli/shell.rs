//! A chain is a shell pipeline: random chains of busybox commands on random
//! bytes give what `sh -c 'a | b | c'` gives, with the very same busybox.
//!
//! Where every link succeeds, or its exit code is accepted: the same bytes, and
//! success where the shell has it with `pipefail`. Where a link fails: the code
//! of the first link that failed, and no more than a prefix of the shell's bytes;
//! links behind it never see an end-of-file. The one difference: a link that was
//! stopped because nobody reads it any more has not failed.
//!
//! `CONSECUTION_TEST_SEED=n` runs other cases, `CONSECUTION_TEST_CASES=n` more.

mod commands;
mod inputs;
mod killed;
mod reference;
mod served;

use std::process::Stdio;
use std::time::Duration;

use crate::support::chain::{self, Link};
use crate::support::command::{self, Finished, UNREAD_WAIT, file_with};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};

use commands::Stage;
use inputs::Input;
use reference::Pipeline;
use test_support::PATIENCE;

/// How many cases each of the tests below has; there are four.
const CASES: u32 = 130;

/// A random chain, on random bytes.
#[derive(Debug, Clone)]
struct Case {
    stages: Vec<Stage>,
    input: Input,
    /// Standard input is a file, and not a pipe.
    from_file: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let stages = prop::collection::vec(commands::stages(), 1..=5);
    (stages, inputs::inputs(), any::<bool>()).prop_map(|(stages, input, from_file)| Case {
        stages,
        input,
        from_file,
    })
}

#[test]
fn a_chain_is_a_pipeline_1() {
    differential(1);
}

#[test]
fn a_chain_is_a_pipeline_2() {
    differential(2);
}

#[test]
fn a_chain_is_a_pipeline_3() {
    differential(3);
}

#[test]
fn a_chain_is_a_pipeline_4() {
    differential(4);
}

/// A number that the environment has.
fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap())
}

/// Every other part is of links that go alone: those whose bytes the runner does
/// not hand over by itself.
fn differential(part: u64) {
    let go_alone = part.is_multiple_of(2);
    let seed = from_environment("CONSECUTION_TEST_SEED").unwrap_or(20_261_123);
    let cases = from_environment("CONSECUTION_TEST_CASES")
        .map_or(CASES, |cases| u32::try_from(cases).unwrap());
    println!("CONSECUTION_TEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&part.to_le_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let result = TestRunner::new_with_rng(config, random)
        .run(&self::cases(), |case| compare(&case, go_alone));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => {
            panic!("CONSECUTION_TEST_SEED={seed}: {reason}\nsmallest case: {case:?}")
        }
        Err(error) => panic!("CONSECUTION_TEST_SEED={seed}: {error}"),
    }
}

fn compare(case: &Case, go_alone: bool) -> TestCaseResult {
    let input = case.input.bytes();
    let pipeline = Pipeline::evaluate(&case.stages, &input);
    prop_assert!(
        pipeline.shell_agrees(&input),
        "the reference contradicts itself: {}",
        pipeline.script()
    );

    let links = links(&pipeline).map(|link| match go_alone {
        // With a deadline of its own a link is a call of its own.
        true => link.with("Deadline", "1h"),
        false => link,
    });
    let found = run(&chain::chain(links), &input, case.from_file);
    judge(&pipeline, found.code(), &found.stdout, found.elapsed).map_err(|problem| {
        TestCaseError::fail(format!(
            "{problem}\npipeline: {}\nstderr: {}",
            pipeline.script(),
            found.stderr
        ))
    })
}

/// The links of a chain that is that pipeline.
fn links(pipeline: &Pipeline) -> impl Iterator<Item = Link> {
    pipeline.stages.iter().map(|stage| {
        let accepted: Vec<_> = stage.accepted.iter().map(u8::to_string).collect();
        chain::link(&stage.words).with("AcceptedExitCodes", format!("[{}]", accepted.join(", ")))
    })
}

fn run(chain: &chain::ChainFile, input: &[u8], from_file: bool) -> Finished {
    let mut run = command::run(chain.path());
    if !from_file {
        return command::finish(run, input, PATIENCE);
    }
    run.stdin(file_with(input).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command::finish_child(run.spawn().unwrap(), PATIENCE)
}

/// Whether that is one of the things that this pipeline may do.
fn judge(pipeline: &Pipeline, code: i32, stdout: &[u8], elapsed: Duration) -> Result<(), String> {
    let is_slow = elapsed >= UNREAD_WAIT;
    let allowed = pipeline.outcomes(is_slow);
    if !allowed.contains(&code) {
        return Err(format!(
            "exit status {code} after {elapsed:?}, allowed is {allowed:?}"
        ));
    }
    let wanted = pipeline.output();
    if code == 0 {
        if stdout != wanted {
            return Err(difference(stdout, wanted));
        }
        return Ok(());
    }
    if !wanted.starts_with(stdout) {
        return Err(format!(
            "no prefix of what the shell prints: {}",
            difference(stdout, wanted)
        ));
    }
    if pipeline.is_silenced() && !stdout.is_empty() {
        let output = stdout[..stdout.len().min(200)].escape_ascii();
        return Err(format!(
            "a link behind a failed one saw an end-of-file, and wrote \"{output}\""
        ));
    }
    Ok(())
}

fn difference(found: &[u8], wanted: &[u8]) -> String {
    let at = found
        .iter()
        .zip(wanted)
        .take_while(|(one, other)| one == other)
        .count();
    let show = |bytes: &[u8]| {
        bytes[at..bytes.len().min(at + 60)]
            .escape_ascii()
            .to_string()
    };
    format!(
        "{} bytes instead of {}, the first difference at {at}: \"{}\" instead of \"{}\"",
        found.len(),
        wanted.len(),
        show(found),
        show(wanted)
    )
}
