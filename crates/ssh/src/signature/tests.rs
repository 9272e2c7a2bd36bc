//! Certificates made by ssh-keygen, and signatures made with the cryptographic library.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use proptest::prelude::*;
use russh::keys::ssh_key::Certificate as ForeignCertificate;

use super::*;
use crate::kex::HashAlgorithm;
use crate::wire::Writer;

/// `ssh-keygen -s ed25519 -h -n 'db.example,*.lab.example' -V 20200101:20400101 -z 7`, ecdsa.
const HOST: &str = concat!(
    "AAAAKGVjZHNhLXNoYTItbmlzdHAyNTYtY2VydC12MDFAb3BlbnNzaC5jb20AAAAgo3zxTeFzz4fXBhIa",
    "y2go/UpnjSAoYt1u2O6mxN1kpwIAAAAIbmlzdHAyNTYAAABBBLpxoK4g/5nEubC0GHVzBrcdZDyKTBXc",
    "ICQhEWUP2tpwApTxz2+4U5lfMVnL1O1+Tp5Ue2nlFsCTACwcS9LLW+IAAAAAAAAABwAAAAIAAAAFaG9z",
    "dDEAAAAfAAAACmRiLmV4YW1wbGUAAAANKi5sYWIuZXhhbXBsZQAAAABeC+EAAAAAAIOqfoAAAAAAAAAA",
    "AAAAAAAAAAAzAAAAC3NzaC1lZDI1NTE5AAAAID59TrKKBNWszAYlkgr8hxlXPievk5u4GpvANkuV5H4M",
    "AAAAUwAAAAtzc2gtZWQyNTUxOQAAAEBXutX8/8SOJd94jTuLtcpwWx0Rb3zI8HRvfq2kdEI8IvFBZLg1",
    "WC77aIvGY73yGmaqBDHCyUN/KWungwrQh24C",
);

/// `ssh-keygen -s rsa -t rsa-sha2-512 -n alice`, ed25519.
const USER: &str = concat!(
    "AAAAIHNzaC1lZDI1NTE5LWNlcnQtdjAxQG9wZW5zc2guY29tAAAAIBQih23FJe+MSa6LICcaE80HAVVq",
    "lggmQ+wXCxWiRNLlAAAAID59TrKKBNWszAYlkgr8hxlXPievk5u4GpvANkuV5H4MAAAAAAAAAAAAAAAB",
    "AAAABXVzZXIxAAAACQAAAAVhbGljZQAAAAAAAAAA//////////8AAAAAAAAAggAAABVwZXJtaXQtWDEx",
    "LWZvcndhcmRpbmcAAAAAAAAAF3Blcm1pdC1hZ2VudC1mb3J3YXJkaW5nAAAAAAAAABZwZXJtaXQtcG9y",
    "dC1mb3J3YXJkaW5nAAAAAAAAAApwZXJtaXQtcHR5AAAAAAAAAA5wZXJtaXQtdXNlci1yYwAAAAAAAAAA",
    "AAABFwAAAAdzc2gtcnNhAAAAAwEAAQAAAQEAxO+Y5nzc19ss7tOrUsJ5DzsyLK2bGBfEUZHKLGnClsUK",
    "ErKDTdEqmTScMue/xgKwlaLusqVbpXIVxsk9FjmOLWvPrdcp/uGWNrmyMXIOhISEsz/rYGpFprqzgqpG",
    "zrpXKDa606SXZj4wq8doPs3KUabuonhsMSzGJMhOSDuxg4XdWWIoiESQ+zpPTpBp6KhlW1kOOu75m+Bd",
    "dBt/6TPox8xM5QevAfU/+xVBewMIlAPOBpchB7L9i+wsJ5S9lAPEYZoQLdV4R1xl1Lj7Zh+MXIEBM62g",
    "avQFN5bnH/CHULulWAnIT6Le1jmZhdEZNpRGYkPISh1viq1efL3gACc5nQAAARQAAAAMcnNhLXNoYTIt",
    "NTEyAAABAElcTZJ2kf5GRrQGLpS20Vco2i9CpnJKYBXbV9D9/0TY6bBknyFtYF9XzNeo5kRjEstd0yhg",
    "JTqjJ5Yl4pwpimEpcI0r2F1BoeFo9pR/yeYgjQdFfNvXJ59vb6XOzrdkhoRtIlJIs+lrnN+Z3RFZqEf5",
    "8VdU7JCOBk6L+RjHQCv5Iqa/ZFkMvK5mmbDd8dXvY/6b7SgCz5E//8uArELsao9qcEUsN28cXvag+ax/",
    "fZIuN5k6ntrDmQxcr42THlvYYHXYiSolEeBneQ2BdtEZ8jf0yI1smO87l5GK/PfjsAqF6wbT15qWKuDe",
    "uogX9ySjSB651YwD9/kw3WOWC/x23S8=",
);

const WITHIN_VALIDITY: u64 = 1_700_000_000;

fn blob(kind: &str, text: &str) -> Vec<u8> {
    let foreign = ForeignCertificate::from_openssh(&format!("{kind} {text}")).unwrap();
    foreign.to_bytes().unwrap()
}

fn key_type_of(blob: &[u8]) -> &str {
    Reader::new(blob).utf8().unwrap()
}

fn host() -> Vec<u8> {
    blob("ecdsa-sha2-nistp256-cert-v01@openssh.com", HOST)
}

fn user() -> Vec<u8> {
    blob("ssh-ed25519-cert-v01@openssh.com", USER)
}

#[test]
fn a_host_certificate_is_parsed_and_its_claims_are_checked() {
    let certificate = Certificate::parse(&host(), false).unwrap();
    assert_eq!(
        (certificate.serial, certificate.key_id.as_str()),
        (7, "host1")
    );
    assert_eq!(key_type_of(&certificate.key), "ecdsa-sha2-nistp256");
    assert_eq!(key_type_of(&certificate.authority), "ssh-ed25519");
    let check = |host, now| certificate.check_host(host, now);
    assert_eq!(check("db.example", WITHIN_VALIDITY), Ok(()));
    assert_eq!(check("DB.Example", WITHIN_VALIDITY), Ok(()));
    // One of the principals is a pattern.
    assert_eq!(check("a.lab.example", WITHIN_VALIDITY), Ok(()));
    for other in ["lab.example", "db.example.com", "*", ""] {
        let refused = check(other, WITHIN_VALIDITY);
        assert!(
            matches!(refused, Err(CertificateError::Principal { .. })),
            "{other}"
        );
    }
    assert_eq!(
        check("db.example", certificate.valid_after - 1),
        Err(CertificateError::NotYetValid)
    );
    assert_eq!(
        check("db.example", certificate.valid_before),
        Err(CertificateError::Expired)
    );
}

/// The claims of a certificate, and its signer.
struct Claims<'a> {
    principals: &'a [&'a str],
    critical: &'a [&'a str],
    authority: Option<Vec<u8>>,
    signed_with: &'a str,
}

impl Default for Claims<'_> {
    fn default() -> Self {
        Self {
            principals: &["db.example"],
            critical: &[],
            authority: None,
            signed_with: "ssh-ed25519",
        }
    }
}

impl Claims<'_> {
    /// A host certificate with a valid Ed25519 signature, whatever algorithm it claims.
    fn certificate(&self) -> Vec<u8> {
        let authority = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let list = |names: &[&str], with_data: bool| {
            let mut list = Vec::new();
            for name in names {
                list.string(name);
                if with_data {
                    list.string("");
                }
            }
            list
        };
        let mut blob = plain(&[b"ssh-ed25519-cert-v01@openssh.com", &[1; 32], &[7; 32]]);
        blob.u64(1);
        blob.u32(2);
        blob.string("id");
        blob.string(list(self.principals, false));
        blob.u64(0);
        blob.u64(u64::MAX);
        blob.string(list(self.critical, true));
        blob.string("");
        blob.string("");
        let own = plain(&[b"ssh-ed25519", authority.public_key().as_ref()]);
        blob.string(self.authority.as_ref().unwrap_or(&own));
        let signature = authority.sign(&blob);
        blob.string(plain(&[self.signed_with.as_bytes(), signature.as_ref()]));
        blob
    }
}

#[test]
fn a_principal_is_a_pattern_none_means_no_host_and_no_critical_option_is_ignored() {
    let check = |claims: Claims<'_>| {
        let certificate = Certificate::parse(&claims.certificate(), false).unwrap();
        certificate.check_host("db.example", WITHIN_VALIDITY)
    };
    assert_eq!(check(Claims::default()), Ok(()));
    let all = Claims {
        principals: &[],
        ..Claims::default()
    };
    assert!(matches!(
        check(all),
        Err(CertificateError::Principal { .. })
    ));
    for principal in ["*", "*.example", "db.exampl?"] {
        let one = Claims {
            principals: &[principal],
            ..Claims::default()
        };
        assert_eq!(check(one), Ok(()), "{principal}");
    }
    for principal in ["?.example", "*.example.org", "DB.example", ""] {
        let one = Claims {
            principals: &[principal],
            ..Claims::default()
        };
        assert!(
            matches!(check(one), Err(CertificateError::Principal { .. })),
            "{principal}"
        );
    }
    for option in ["force-command", "verify-required", "x@y", ""] {
        let critical = Claims {
            critical: &[option],
            ..Claims::default()
        };
        assert_eq!(
            check(critical),
            Err(CertificateError::CriticalOption(option.to_owned()))
        );
    }
}

#[test]
fn authorities_are_plain_keys_and_do_not_sign_with_sha_1() {
    let nested = Claims {
        authority: Some(Claims::default().certificate()),
        signed_with: "ssh-ed25519-cert-v01@openssh.com",
        ..Claims::default()
    };
    assert!(matches!(
        Certificate::parse(&nested.certificate(), true),
        Err(SignatureError::KeyType(_))
    ));
    let rsa = plain(&[b"ssh-rsa", &[1, 0, 1], &[0x7f; 256]]);
    let error_of = |signed_with, allow_sha1| {
        let claims = Claims {
            authority: Some(rsa.clone()),
            signed_with,
            ..Claims::default()
        };
        Certificate::parse(&claims.certificate(), allow_sha1).unwrap_err()
    };
    assert_eq!(
        error_of("ssh-rsa", false),
        SignatureError::Algorithm("ssh-rsa".into())
    );
    assert_eq!(error_of("ssh-rsa", true), SignatureError::Invalid);
    assert_eq!(error_of("rsa-sha2-512", false), SignatureError::Invalid);
    assert_eq!(
        error_of("ssh-ed25519", false),
        SignatureError::KeyType("ssh-rsa".into())
    );
}

#[test]
fn a_user_certificate_is_not_accepted_for_a_host() {
    let certificate = Certificate::parse(&user(), false).unwrap();
    assert_eq!(
        certificate.check_host("alice", WITHIN_VALIDITY),
        Err(CertificateError::NotHost)
    );
}

#[test]
fn a_certificate_with_any_byte_changed_is_refused() {
    for original in [host(), user()] {
        for at in 0..original.len() {
            let mut changed = original.clone();
            changed[at] ^= 1;
            assert!(Certificate::parse(&changed, false).is_err(), "byte {at}");
        }
        for length in 0..original.len() {
            assert!(Certificate::parse(&original[..length], false).is_err());
        }
    }
}

fn plain(parts: &[&[u8]]) -> Vec<u8> {
    let mut blob = Vec::new();
    for part in parts {
        blob.string(part);
    }
    blob
}

#[test]
fn a_security_key_signature_covers_flags_and_counter() {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let name = "sk-ssh-ed25519@openssh.com";
    let key = plain(&[name.as_bytes(), pair.public_key().as_ref(), b"ssh:"]);
    let mut signed = HashAlgorithm::Sha256.digest(&[b"ssh:"]).to_vec();
    signed.raw(&[1, 0, 0, 0, 9]);
    signed.raw(&HashAlgorithm::Sha256.digest(&[b"message"]));
    let mut signature = plain(&[name.as_bytes(), pair.sign(&signed).as_ref()]);
    signature.raw(&[1, 0, 0, 0, 9]);
    assert_eq!(verify(name, &key, &signature, b"message", None), Ok(()));
    assert_eq!(
        verify(name, &key, &signature, b"massage", None),
        Err(SignatureError::Invalid)
    );
    *signature.last_mut().unwrap() = 8;
    assert_eq!(
        verify(name, &key, &signature, b"message", None),
        Err(SignatureError::Invalid)
    );
    signature.truncate(signature.len() - 5);
    assert_eq!(
        verify(name, &key, &signature, b"message", None),
        Err(SignatureError::Malformed)
    );
}

#[test]
fn ecdsa_numbers_may_have_leading_zeros_or_fewer_bytes() {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref()).unwrap();
    let name = "ecdsa-sha2-nistp256";
    let key = plain(&[name.as_bytes(), b"nistp256", pair.public_key().as_ref()]);
    // About one in 128 has a number with a leading zero byte.
    for _ in 0..600 {
        let fixed = pair.sign(&random, b"message").unwrap();
        let mut numbers = Vec::new();
        numbers.mpint(&fixed.as_ref()[..32]);
        numbers.mpint(&fixed.as_ref()[32..]);
        let signature = plain(&[name.as_bytes(), &numbers]);
        assert_eq!(verify(name, &key, &signature, b"message", None), Ok(()));
    }
    let wrong_curve = plain(&[name.as_bytes(), b"nistp384", pair.public_key().as_ref()]);
    assert!(verify(name, &wrong_curve, &[], b"message", None).is_err());
}

#[test]
fn keys_and_signatures_of_other_algorithms_are_refused() {
    let ed25519 = plain(&[b"ssh-ed25519", &[7; 32]]);
    let refused = verify("rsa-sha2-512", &ed25519, &[], b"", None);
    assert_eq!(
        refused,
        Err(SignatureError::KeyType("ssh-ed25519".to_owned()))
    );
    let short = plain(&[b"ssh-rsa", &[1, 0, 1], &[0x7f; 128]]);
    let signature = plain(&[b"rsa-sha2-512", &[1; 128]]);
    assert_eq!(
        verify("rsa-sha2-512", &short, &signature, b"", None),
        Err(SignatureError::RsaTooShort {
            bits: 1024,
            required: 2048
        })
    );
    let sha1 = plain(&[b"ssh-rsa", &[1; 128]]);
    let refused = verify("rsa-sha2-512", &short, &sha1, b"", None);
    assert_eq!(
        refused,
        Err(SignatureError::Algorithm("ssh-rsa".to_owned()))
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(key: Vec<u8>, signature: Vec<u8>, which in 0usize..8) {
        let name = crate::algorithm::Kind::HostKey.defaults()[which];
        let _ = verify(name, &key, &signature, b"message", None);
        let prefixed = [&plain(&[key_type(name).as_bytes()])[..], &key].concat();
        let signature = [&plain(&[name.as_bytes()])[..], &signature].concat();
        let _ = verify(name, &prefixed, &signature, b"message", None);
        let _ = Certificate::parse(&key, true);
    }
}
