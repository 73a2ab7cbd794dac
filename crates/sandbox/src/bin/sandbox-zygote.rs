//! A program that can be a zygote and nothing else: for this crate's tests,
//! whose own program is the test harness, and for measuring.
#![forbid(unsafe_code)]

fn main() {
    sandbox::run_zygote_if_asked();
    eprintln!("sandbox-zygote: to be executed by a sandbox::Launcher only");
    std::process::exit(2);
}
