//! Known answers, computed with OpenSSL's ciphers and a reference of ChaCha20 and Poly1305.

use zeroize::Zeroizing;

use super::*;
use crate::kex::HashAlgorithm;

const SEQUENCE: u32 = 0x0102_0304;

const ANSWERS: &[(&str, &str, &str)] = &[
    (
        "aes128-gcm@openssh.com",
        "",
        "000000206e01def31ab0ee82a0c600e7f518ba764a1c8da29b1d0193da59411c1123de649139bc525bc2dbbed0621cf652e5261b",
    ),
    (
        "aes256-gcm@openssh.com",
        "",
        "00000020ec42b060e3f93cd34a574bacce298316abb833ee157789513af9db77cbe2ccea1d46f737503285a4ccfb7cc9227d78f5",
    ),
    (
        "chacha20-poly1305@openssh.com",
        "",
        "6d8fb7388556329569f8207717f21450a2103c0105d3ba7c73bb5ae466f657b79e52bd41fcbe1a971d3cc0b6feb3861243174c35",
    ),
    (
        "aes128-ctr",
        "hmac-sha2-256",
        "50b22de6cafe4c6ae366ac573209cf215719918fbf3c5e0b77e5abf194845c2a87f9914103ff58b1bef3a99f3d268e520ec10dd14e405ce8f30b9f8a3cceed48",
    ),
    (
        "aes128-ctr",
        "hmac-sha2-512-etm@openssh.com",
        "0000002056b22cf8cffa486ee76aa05b3e0dcb2553058d93a3385a0f73e9a7fd9880582e5ddb155b4a82063883fefcd6699a699263b023be77cfbdb8f19dde2a712e43accea2e8b0a1242e917cf8b585802a44c67a3b6edc8b1033494219df6ae525ab80",
    ),
    (
        "aes128-ctr",
        "hmac-sha1",
        "50b22de6cafe4c6ae366ac573209cf215719918fbf3c5e0b77e5abf194845c2a775e57f6d141f612fa9e431b636f1f74ac6209ad",
    ),
    (
        "aes192-ctr",
        "hmac-sha2-256",
        "daaf4e5aa6ec2fff63b644398992a6e5a9f07853cd8982a1b2dfe63c2c081cd987f9914103ff58b1bef3a99f3d268e520ec10dd14e405ce8f30b9f8a3cceed48",
    ),
    (
        "aes256-ctr",
        "hmac-sha2-256",
        "505a7d73db9e7a50edecb9300f608401ce02c1398d0a58932c0b913e5406d63c87f9914103ff58b1bef3a99f3d268e520ec10dd14e405ce8f30b9f8a3cceed48",
    ),
    (
        "aes128-cbc",
        "hmac-sha2-256",
        "9433db4e613b4aca685251890a237313a552332c4e21ea2c0b19a9b16ed2e20287f9914103ff58b1bef3a99f3d268e520ec10dd14e405ce8f30b9f8a3cceed48",
    ),
    (
        "3des-cbc",
        "hmac-sha2-256",
        "f369ba6cab63553c6d9b4fcc4296f0ba11d14c1b7b3d9a5e68d8f74fad39da6987f9914103ff58b1bef3a99f3d268e520ec10dd14e405ce8f30b9f8a3cceed48",
    ),
];

fn material() -> KeyMaterial {
    KeyMaterial {
        hash: HashAlgorithm::Sha256,
        secret: Zeroizing::new(vec![0, 0, 0, 1, 7]),
        exchange_hash: Zeroizing::new(vec![1; 32]),
        session_id: vec![2; 32],
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn known_answers_of_every_cipher() {
    for (cipher, mac, answer) in ANSWERS {
        let (spec, mac) = (CipherSpec::find(cipher).unwrap(), MacSpec::find(mac));
        let answer = hex(answer);
        let mut sealer = spec
            .sealer(mac, &material(), Direction::ClientToServer)
            .unwrap();
        let (_, length_is_padded) = sealer.padding();
        let length = if length_is_padded { 28 } else { 32 };
        let mut packet = vec![0, 0, 0, length, 6];
        packet.extend(0..length - 1);
        let clear = packet.clone();
        packet.resize(clear.len() + sealer.tag_len(), 0);
        sealer.seal(SEQUENCE, &mut packet).unwrap();
        assert_eq!(packet, answer, "{cipher}");

        let mut opener = spec
            .opener(mac, &material(), Direction::ClientToServer)
            .unwrap();
        let head = opener.head_len();
        let read = opener.packet_length(SEQUENCE, &mut packet[..head]).unwrap();
        assert_eq!(read, usize::from(length));
        opener.open(SEQUENCE, &mut packet).unwrap();
        assert_eq!(packet[4..clear.len()], clear[4..], "{cipher}");
    }
}

#[test]
fn a_packet_does_not_open_with_another_sequence_number() {
    for (cipher, mac, answer) in ANSWERS {
        if cipher.contains("gcm") {
            continue;
        }
        let (spec, mac) = (CipherSpec::find(cipher).unwrap(), MacSpec::find(mac));
        let mut packet = hex(answer);
        let mut opener = spec
            .opener(mac, &material(), Direction::ClientToServer)
            .unwrap();
        let head = opener.head_len();
        let length = opener.packet_length(SEQUENCE + 1, &mut packet[..head]);
        assert!(length.is_err() || opener.open(SEQUENCE + 1, &mut packet).is_err());
    }
}

#[test]
fn chacha_and_cbc_with_etm_are_vulnerable_to_terrapin() {
    let is_vulnerable = |cipher, mac| {
        CipherSpec::find(cipher)
            .unwrap()
            .is_terrapin_vulnerable(mac)
    };
    assert!(is_vulnerable("chacha20-poly1305@openssh.com", None));
    assert!(is_vulnerable(
        "aes128-cbc",
        Some("hmac-sha2-256-etm@openssh.com")
    ));
    assert!(!is_vulnerable("aes128-cbc", Some("hmac-sha2-256")));
    assert!(!is_vulnerable(
        "aes128-ctr",
        Some("hmac-sha2-256-etm@openssh.com")
    ));
    assert!(!is_vulnerable("aes128-gcm@openssh.com", None));
}

#[test]
fn every_offered_name_is_implemented() {
    use crate::algorithm::Kind;
    assert!(
        Kind::Cipher
            .known()
            .all(|name| CipherSpec::find(name).is_some())
    );
    assert!(Kind::Mac.known().all(|name| MacSpec::find(name).is_some()));
    assert!(CipherSpec::find("none").is_none() && MacSpec::find("none").is_none());
}
