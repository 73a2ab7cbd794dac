//! Manifests: what is read, what is refused, which platform is chosen.

use super::*;

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
    read(text.as_bytes(), media_type, 127)
        .unwrap_err()
        .to_string()
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
    assert_eq!(choose(&list).unwrap(), &list[2]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_variant_that_no_machine_has_is_not_chosen() {
    let list = platforms(&["linux/amd64/v9", "linux/amd64/v1"]);
    assert_eq!(choose(&list).unwrap(), &list[1]);
    assert!(choose(&list[..1]).is_err());
}

#[test]
fn where_none_fits_those_that_there_are_get_listed() {
    let error = choose(&platforms(&["linux/vax", "plan9/amd64", "unknown/unknown"])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("linux/vax, plan9/amd64") || text.contains("linux/vax/, plan9"),
        "{text}"
    );
    assert!(!text.contains("unknown"), "{text}");
}
