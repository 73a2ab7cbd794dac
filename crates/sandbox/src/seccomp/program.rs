//! Compiles one program for the kernel from a table of answers by call number, and checks
//! of the arguments of the remaining calls.
//!
//! When a program is installed, the kernel runs it once for each number and remembers the
//! calls that are always allowed. For most others it runs the program each time. So the
//! program finds the number in the table by a binary search.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch, sock_filter as Instruction,
};

use super::rules::Rules;

/// What is answered to a call by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Allow,
    /// With this error.
    Refuse(i32),
    /// Whoever listens to the filter is asked, and the call waits meanwhile.
    Ask,
    /// It is allowed unless its arguments are refused.
    Check,
}

/// The answers by number. A call without an entry does not exist.
pub(super) type Table = BTreeMap<u32, Answer>;

/// An answer, and the rules that tell which calls get it.
pub(super) type Check = (Answer, Rules);

/// What is answered to a call that does not exist.
const NOT_THERE: Answer = Answer::Refuse(libc::ENOSYS);

/// From linux/bpf_common.h, and where `struct seccomp_data` has the number of the call.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const NUMBER: u32 = 0;

/// Stands for a jump to the checks until it is known how far that is.
const TO_CHECKS: Instruction = instruction(JUMP, u32::MAX);

/// Compiles the program. If several checks match a call, the first one answers.
pub(super) fn program(table: &Table, checks: &[Check]) -> Result<BpfProgram, BackendError> {
    // Without rules, a filter kills a process that calls as another architecture does,
    // and allows all else. The search takes the place of its last instruction, which
    // allows.
    let mut program = alone(Rules::new(), Answer::Allow)?;
    program.pop();
    program.push(instruction(LOAD, NUMBER));
    program.append(&mut search(&intervals(table)));
    let checks_begin = program.len();
    for (at, instruction) in program.iter_mut().enumerate() {
        if *instruction == TO_CHECKS {
            instruction.k = distance(at, checks_begin);
        }
    }
    for (refusal, rules) in checks {
        let mut check = alone(rules.clone(), *refusal)?;
        let (allow, end) = (answer(Answer::Allow), check.len());
        for (at, instruction) in check.iter_mut().enumerate() {
            if *instruction == allow {
                // What this check does not refuse goes to the next one.
                *instruction = self::instruction(JUMP, distance(at, end));
            }
        }
        program.append(&mut check);
    }
    program.push(answer(Answer::Allow));
    Ok(program)
}

/// A filter that gives this answer to what the rules match, and allows all else.
pub(super) fn alone(rules: Rules, answer: Answer) -> Result<BpfProgram, BackendError> {
    const MATCHED: SeccompAction = SeccompAction::Trap;
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let program = SeccompFilter::new(rules, SeccompAction::Allow, MATCHED, architecture)?;
    let mut program = BpfProgram::try_from(program)?;
    // The compiler has no action that asks, so it compiles another one.
    let matched = instruction(RETURN, MATCHED.into());
    for instruction in &mut program {
        if *instruction == matched {
            *instruction = self::answer(answer);
        }
    }
    Ok(program)
}

/// The intervals of numbers with the same answer, each by its first number.
fn intervals(table: &Table) -> Vec<(u32, Answer)> {
    let answer = |number: u32| table.get(&number).copied().unwrap_or(NOT_THERE);
    let mut intervals = vec![(0, answer(0))];
    for number in table.keys().flat_map(|number| [*number, number + 1]) {
        let answer = answer(number);
        if intervals.last().is_some_and(|(_, last)| *last != answer) {
            intervals.push((number, answer));
        }
    }
    intervals
}

/// A binary search for the interval that a number is in. There must be at least one.
fn search(intervals: &[(u32, Answer)]) -> BpfProgram {
    let (below, above) = intervals.split_at(intervals.len() / 2);
    if below.is_empty() {
        return above
            .iter()
            .map(|(_, answer)| self::answer(*answer))
            .collect();
    }
    let (mut below, first_above, mut above) = (search(below), above[0].0, search(above));
    let mut program = BpfProgram::new();
    let mut jump = instruction(JUMP_IF_AT_LEAST, first_above);
    match u8::try_from(below.len()) {
        Ok(length) => {
            jump.jt = length;
            program.push(jump);
        }
        // A conditional jump reaches 255 instructions at most.
        Err(_) => {
            jump.jf = 1;
            let length = distance(0, below.len() + 1);
            program.extend([jump, instruction(JUMP, length)]);
        }
    }
    program.append(&mut below);
    program.append(&mut above);
    program
}

fn answer(answer: Answer) -> Instruction {
    match answer {
        Answer::Check => TO_CHECKS,
        answer => instruction(RETURN, action(answer)),
    }
}

/// As the kernel has it.
pub(super) fn action(answer: Answer) -> u32 {
    match answer {
        Answer::Refuse(errno) => SeccompAction::Errno(errno.cast_unsigned()).into(),
        Answer::Ask => libc::SECCOMP_RET_USER_NOTIF,
        Answer::Allow | Answer::Check => SeccompAction::Allow.into(),
    }
}

const fn instruction(code: u16, k: u32) -> Instruction {
    let (jt, jf) = (0, 0);
    Instruction { code, jt, jf, k }
}

/// The number of instructions between two places. The kernel takes 4,096 at most.
fn distance(from: usize, to: usize) -> u32 {
    u32::try_from(to - from - 1).unwrap_or(u32::MAX)
}

/// What a program answers to a call of this architecture, as the kernel runs it.
#[cfg(test)]
pub(super) fn run(program: &[Instruction], number: u32, arguments: [u64; 6]) -> u32 {
    // The program asks first of all for the architecture, and for this value.
    let architecture = program[1].k;
    let load = |offset: u32| match offset {
        NUMBER => number,
        4 => architecture,
        offset => {
            let argument = arguments[((offset - 16) / 8) as usize];
            (argument >> (if offset % 8 == 0 { 0 } else { 32 })) as u32
        }
    };
    let (mut at, mut value) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let jump = |is_so: bool| usize::from(if is_so { jt } else { jf });
        at += 1;
        match code {
            LOAD => value = load(k),
            JUMP => at += k as usize,
            0x15 => at += jump(value == k),
            0x25 => at += jump(value > k),
            JUMP_IF_AT_LEAST => at += jump(value >= k),
            0x54 => value &= k,
            RETURN => return k,
            code => panic!("an instruction that is not expected: {code:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tables() -> impl Strategy<Value = Table> {
        let answer = prop_oneof![
            Just(Answer::Allow),
            Just(Answer::Check),
            (1..100).prop_map(Answer::Refuse),
        ];
        prop::collection::btree_map(0..600_u32, answer, 0..600)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn each_number_gets_its_answer(table in tables()) {
            let program = program(&table, &[]).unwrap();
            for number in (0..=601).chain([0x4000_0000, u32::MAX]) {
                let wanted = table.get(&number).copied().unwrap_or(NOT_THERE);
                let wanted = action(wanted);
                prop_assert_eq!(run(&program, number, [0; 6]), wanted, "{}", number);
            }
        }
    }
}
