//! The common name in a certificate's subject (X.520, in DER).
//!
//! Only certificates that were verified get here, so their authority has seen what is in them.

/// The id of the attribute `commonName`, 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const CONTEXT_0: u8 = 0xa0;

/// The common name in a certificate, if it has exactly one, in UTF-8 or ASCII.
pub(crate) fn common_name(certificate: &[u8]) -> Option<&str> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    // The version, which is left out for the first one.
    if let Some((_, behind)) = element(rest, CONTEXT_0) {
        rest = behind;
    }
    // Serial number, algorithm, issuer, validity; then comes the subject.
    for _ in 0..4 {
        rest = first(rest)?.2;
    }
    let (mut subject, _) = element(rest, SEQUENCE)?;
    let mut found = None;
    while !subject.is_empty() {
        let (mut set, behind) = element(subject, SET)?;
        subject = behind;
        while !set.is_empty() {
            let (attribute, behind) = element(set, SEQUENCE)?;
            set = behind;
            let (id, value) = element(attribute, OBJECT_ID)?;
            if id != COMMON_NAME {
                continue;
            }
            let (UTF8_STRING | PRINTABLE_STRING, text, b"") = first(value)? else {
                return None;
            };
            if found.replace(std::str::from_utf8(text).ok()?).is_some() {
                return None;
            }
        }
    }
    found
}

/// The content of the first element, which must have that tag, and what is behind it.
fn element(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, behind) = first(bytes)?;
    (tag == wanted).then_some((content, behind))
}

/// The tag and the content of the first element, and what is behind it.
fn first(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        // So many bytes follow that have the length.
        0x81..=0x83 => {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = behind;
            let value = |length: usize, digit: &u8| length << 8 | usize::from(*digit);
            digits.iter().fold(0, value)
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag, content, behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn it_is_found_beside_others() {
        let names = [
            (DnType::OrganizationName, "CN=other"),
            (DnType::CommonName, "bätch"),
            (DnType::CountryName, "DE"),
        ];
        assert_eq!(common_name(&certificate(&names)), Some("bätch"));
        let long = "x".repeat(5000);
        let names = [(DnType::CommonName, long.as_str())];
        assert_eq!(common_name(&certificate(&names)), Some(long.as_str()));
        let names = [(DnType::OrganizationName, "batch")];
        assert_eq!(common_name(&certificate(&names)), None);
        assert_eq!(common_name(&certificate(&[])), None);
    }

    proptest! {
        #[test]
        fn a_damaged_certificate_does_no_harm(at in 0usize..200, byte in any::<u8>(), length in 0usize..300) {
            let mut bytes = certificate(&[(DnType::CommonName, "batch")]);
            if let Some(found) = bytes.get_mut(at) {
                *found = byte;
            }
            bytes.truncate(length);
            common_name(&bytes);
        }

        #[test]
        fn nor_does_anything_else(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            common_name(&bytes);
        }
    }
}
