//! References: Docker's own cases, bad ones, and round trips.

use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> String {
    text.parse::<Reference>().unwrap().to_string()
}

fn problem(text: &str) -> ReferenceProblem {
    text.parse::<Reference>().unwrap_err().problem
}

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn names_are_normalised_as_docker_does() {
    assert_eq!(canonical("busybox"), "docker.io/library/busybox:latest");
    assert_eq!(canonical("busybox:1.36"), "docker.io/library/busybox:1.36");
    assert_eq!(canonical("me/tool"), "docker.io/me/tool:latest");
    assert_eq!(
        canonical("docker.io/busybox"),
        "docker.io/library/busybox:latest"
    );
    assert_eq!(
        canonical("index.docker.io/busybox"),
        "docker.io/library/busybox:latest"
    );
    assert_eq!(canonical("localhost/x"), "localhost/x:latest");
    assert_eq!(canonical("localhost:5000/x"), "localhost:5000/x:latest");
    assert_eq!(canonical("[::1]:5000/x"), "[::1]:5000/x:latest");
    assert_eq!(
        canonical("ghcr.io/a/b__c/d--e:V_1"),
        "ghcr.io/a/b__c/d--e:V_1"
    );
    assert_eq!(
        canonical(&format!("registry.example.com/a/b:1@sha256:{HEX}")),
        format!("registry.example.com/a/b:1@sha256:{HEX}")
    );
    let digest_only = format!("busybox@sha256:{HEX}")
        .parse::<Reference>()
        .unwrap();
    assert_eq!(digest_only.tag(), None);
    assert_eq!(
        digest_only.to_string(),
        format!("docker.io/library/busybox@sha256:{HEX}")
    );
}

#[test]
fn the_familiar_form_is_the_short_one() {
    let familiar = |text: &str| text.parse::<Reference>().unwrap().familiar();
    assert_eq!(familiar("docker.io/library/busybox"), "busybox:latest");
    assert_eq!(familiar("docker.io/me/tool:1"), "me/tool:1");
    assert_eq!(familiar("docker.io/library/a/b"), "library/a/b:latest");
    assert_eq!(familiar("localhost:5000/x"), "localhost:5000/x:latest");
}

#[test]
fn bad_names_say_what_is_wrong() {
    assert_eq!(problem(""), ReferenceProblem::Empty);
    assert_eq!(problem("busy box"), ReferenceProblem::WhiteSpace);
    assert_eq!(problem("busybox\n"), ReferenceProblem::WhiteSpace);
    assert_eq!(
        problem("BusyBox"),
        ReferenceProblem::UpperCase("busybox".into())
    );
    assert_eq!(
        problem("ghcr.io/A/b"),
        ReferenceProblem::UpperCase("ghcr.io/a/b".into())
    );
    assert_eq!(problem("../etc"), ReferenceProblem::DotDot);
    assert_eq!(problem("a/../b"), ReferenceProblem::DotDot);
    assert_eq!(
        problem("https://ghcr.io/a"),
        ReferenceProblem::Url("https".into())
    );
    assert_eq!(problem(HEX), ReferenceProblem::ImageId);
    assert_eq!(problem("busybox:"), ReferenceProblem::BadTag(String::new()));
    assert_eq!(
        problem("busybox:a:b"),
        ReferenceProblem::BadTag("a:b".into())
    );
    assert_eq!(problem("busybox:-x"), ReferenceProblem::BadTag("-x".into()));
    assert!(matches!(
        problem("busybox@sha256:00"),
        ReferenceProblem::BadDigest(_)
    ));
    assert!(matches!(
        problem("localhost:port/x"),
        ReferenceProblem::BadRegistry(_)
    ));
    assert!(matches!(
        problem("[::1/x"),
        ReferenceProblem::BadRegistry(_)
    ));
    for text in [
        "/x", "x/", "a//b", "-a", "a-", "a___b", "a._b", "ä", "ghcr.io/", "a@b",
    ] {
        assert!(text.parse::<Reference>().is_err(), "{text}");
    }
    let long = "a".repeat(256);
    assert_eq!(
        problem(&long),
        ReferenceProblem::TooLong("docker.io/library/".len() + 256)
    );
    assert!(matches!(
        problem(&format!("a:{}", "t".repeat(129))),
        ReferenceProblem::BadTag(_)
    ));
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_as_the_same(
        registry in prop_oneof![Just(String::new()), "[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/", Just("localhost/".into())],
        path in "[a-z0-9]{1,9}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,9}){0,3}",
        tag in prop_oneof![Just(String::new()), ":[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"],
        digest in prop_oneof![Just(String::new()), Just(format!("@sha256:{HEX}"))],
    ) {
        let registry = if registry.is_empty() && path.contains('/') { "docker.io/".to_owned() } else { registry };
        let reference: Reference = format!("{registry}{path}{tag}{digest}").parse().unwrap();
        prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
        prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert!(!reference.repository().contains(".."));
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
        }
    }
}
