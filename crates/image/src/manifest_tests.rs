//! Manifests: what is read, what is refused, which platform is chosen.

use super::*;
use crate::causes::with_causes;

fn descriptor(media_type: &str, platform: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":1{platform}}}"#,
        Digest::of(b"x")
    )
}

fn manifest(config: &str, layer: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor(config, ""),
        descriptor(layer, "")
    )
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn refused(text: &str, media_type: &str) -> String {
    with_causes(&read(text.as_bytes(), media_type, 127).unwrap_err())
}

#[test]
fn manifests_and_indexes_are_told_apart() {
    let text = manifest(OCI_CONFIG, LAYER);
    for media_type in ["", OCI_MANIFEST, DOCKER_MANIFEST, "application/json"] {
        let read = read(text.as_bytes(), media_type, 127).unwrap();
        assert!(matches!(read, Document::Manifest(manifest) if manifest.layers.len() == 1));
    }
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        descriptor(OCI_MANIFEST, "")
    );
    assert!(matches!(
        read(index.as_bytes(), OCI_INDEX, 127).unwrap(),
        Document::Index(_)
    ));
}

#[test]
fn what_is_no_image_is_refused_and_named() {
    assert!(refused("<html>", "text/html").contains("text/html"));
    assert!(refused("<html>", "").contains("read the manifest"));
    assert!(refused("{}", "").contains("schemaVersion"));
    assert!(refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, "").contains("schema 1"));
    assert!(refused("", &format!("{DOCKER_SCHEMA_1}prettyjws")).contains("schema 1"));
    assert!(
        refused(
            &manifest("application/vnd.cncf.helm.config.v1+json", LAYER),
            ""
        )
        .contains("helm")
    );
    assert!(
        refused(
            &manifest(
                OCI_CONFIG,
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            ),
            ""
        )
        .contains("foreign")
    );
    assert!(
        refused(&manifest(OCI_CONFIG, &format!("{LAYER}+encrypted")), "").contains("encrypted")
    );
    assert!(refused(&manifest(OCI_CONFIG, "application/wasm"), "").contains("application/wasm"));
}

#[test]
fn a_document_that_could_be_two_things_is_refused() {
    let both = format!(
        r#"{{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}}"#,
        descriptor(OCI_CONFIG, "")
    );
    assert!(refused(&both, "").contains("neither quite"));
    assert!(read(manifest(OCI_CONFIG, LAYER).as_bytes(), OCI_INDEX, 127).is_err());
    let calls_itself = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    assert!(refused(calls_itself, OCI_MANIFEST).contains("calls itself"));
}

#[test]
fn no_layers_are_written_as_null_too() {
    let text = manifest(OCI_CONFIG, LAYER);
    let start = text.find("\"layers\"").unwrap();
    let text = format!("{}\"layers\":null}}", &text[..start]);
    let read = read(text.as_bytes(), OCI_MANIFEST, 127).unwrap();
    assert!(matches!(read, Document::Manifest(manifest) if manifest.layers.is_empty()));
    assert!(refused(&text, OCI_INDEX).contains("no config"));
    let missing = text.replace(",\"layers\":null", "");
    assert!(refused(&missing, OCI_MANIFEST).contains("no config and layers"));
}

#[test]
fn too_many_layers_are_refused() {
    let text = manifest(OCI_CONFIG, LAYER);
    let error = read(text.as_bytes(), "", 0).unwrap_err();
    assert!(matches!(error, ContentError::TooLarge { most: 0, .. }));
}

fn platforms(names: &[&str]) -> Vec<Descriptor> {
    let parse = |name: &&str| {
        let mut parts = name.split('/');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let (os, architecture, variant) = (part(), part(), part());
        let platform = format!(
            r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
        );
        serde_json::from_str(&descriptor(OCI_MANIFEST, &platform)).unwrap()
    };
    names.iter().map(parse).collect()
}

#[test]
fn the_hosts_platform_is_chosen_plainest_variant_first() {
    let host = Platform::host().architecture;
    let names = [
        "windows/amd64",
        "linux/vax",
        &format!("linux/{host}"),
        "unknown/unknown",
    ];
    let list = platforms(&names);
    assert_eq!(candidates(&list).unwrap(), [&list[2]]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_variant_that_no_machine_has_is_not_chosen() {
    let list = platforms(&["linux/amd64/v9", "linux/amd64/v1"]);
    assert_eq!(candidates(&list).unwrap(), [&list[1]]);
    assert!(candidates(&list[..1]).is_err());
}

#[test]
fn where_none_fits_those_that_there_are_get_listed() {
    let error =
        candidates(&platforms(&["linux/vax", "plan9/amd64", "unknown/unknown"])).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("linux/vax, plan9/amd64"), "{text}");
    assert!(!text.contains("unknown"), "{text}");
}

#[test]
fn an_odd_entry_hurts_itself_only() {
    let host = format!(
        r#","platform":{{"os":"linux","architecture":"{}"}}"#,
        Platform::host().architecture
    );
    let good = descriptor(OCI_MANIFEST, &host);
    for odd in [
        descriptor(OCI_MANIFEST, r#","platform":{"architecture":"vax"}"#),
        descriptor(OCI_MANIFEST, r#","platform":{"os":null}"#),
        descriptor(OCI_MANIFEST, r#","platform":{}"#),
        descriptor(OCI_MANIFEST, r#","platform":null"#),
        descriptor(OCI_MANIFEST, r#","platform":"linux/amd64""#),
        descriptor(OCI_MANIFEST, ""),
        format!(r#"{{"digest":"md5:00","size":1{host}}}"#),
        format!(r#"{{"size":1{host}}}"#),
        "null".to_owned(),
        "7".to_owned(),
    ] {
        for list in [format!("{odd},{good}"), format!("{good},{odd}")] {
            let text = format!(r#"{{"schemaVersion":2,"manifests":[{list}]}}"#);
            let Document::Index(entries) = read(text.as_bytes(), OCI_INDEX, 127).unwrap() else {
                panic!("{text}");
            };
            let best = candidates(&entries).unwrap()[0];
            let platform = best.platform.as_ref().unwrap();
            assert_eq!(platform.os, "linux", "{odd}");
            assert_eq!(platform.architecture, Platform::host().architecture);
        }
    }
}

#[test]
fn half_a_platform_is_better_than_none_and_worse_than_a_whole_one() {
    let host = Platform::host().architecture;
    let whole = format!("linux/{host}");
    let list = platforms(&["linux", &whole, ""]);
    assert_eq!(candidates(&list).unwrap(), [&list[1], &list[0], &list[2]]);
}

#[test]
fn dockers_and_ocis_names_mean_the_same() {
    let names = |kind: &str, body: &str| {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}",{body}}}"#);
        let read = |media_type| read(text.as_bytes(), media_type, 127).is_ok();
        [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].map(read)
    };
    let image = format!(r#""config":{},"layers":[]"#, descriptor(OCI_CONFIG, ""));
    for kind in [OCI_INDEX, DOCKER_LIST] {
        assert_eq!(names(kind, r#""manifests":[]"#), [true, true, false, false]);
        assert_eq!(names(kind, &image), [false; 4]);
    }
    for kind in [OCI_MANIFEST, DOCKER_MANIFEST] {
        assert_eq!(names(kind, &image), [false, false, true, true]);
        assert_eq!(names(kind, r#""manifests":[]"#), [false; 4]);
    }
}

#[test]
fn a_config_is_told_by_its_content_unless_somebody_says_what_else_it_is() {
    for kind in [
        "",
        "text/html",
        "text/plain; charset=utf-8",
        "application/json",
        "application/octet-stream",
        DOCKER_CONFIG,
    ] {
        assert!(
            read(manifest(kind, LAYER).as_bytes(), "", 127).is_ok(),
            "{kind}"
        );
    }
    for kind in [
        "application/vnd.docker.plugin.v1+json",
        "application/vnd.wasm.config.v0+json",
        "application/vnd.oci.empty.v1+json",
    ] {
        assert!(refused(&manifest(kind, LAYER), "").contains("is an artifact"));
    }
}

#[test]
fn artifacts_are_no_candidates() {
    let artifact = r#","artifactType":"application/spdx+json""#;
    let attestation = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
    let list: Vec<Descriptor> = [
        descriptor(OCI_MANIFEST, artifact),
        descriptor(OCI_MANIFEST, attestation),
        descriptor("application/vnd.dev.sigstore.bundle.v0.3+json", ""),
        descriptor(OCI_MANIFEST, ""),
    ]
    .iter()
    .map(|text| serde_json::from_str(text).unwrap())
    .collect();
    assert_eq!(candidates(&list).unwrap(), [&list[3]]);
    assert!(candidates(&list[..3]).is_err());
}
