//! Keys with chosen private numbers, as the real ssh-keygen writes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use rsa::signature::Verifier as _;
use ssh_key::Signature;

use super::*;

const PASSPHRASE: &str = "open sesame";

/// Made for these tests. Their private numbers are 5a5b5c…; ssh-keygen refuses those of less than half the field, so
/// that no P-521 key is too short for ssh-key.
const SHORT: [&str; 3] = [
    // P-256 with 31 bytes
    "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIABaW1xdXl9gYWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4oAoGCCqGSM49
AwEHoUQDQgAElkYZ2h7A4Ndly6B8rMtGb4ciDXbbwQlG8TIcqQqHdoA9nq1VOpRp
x9lnHvCaKMaZCxP/QYV2dh2IkOPfw2cwLw==
-----END EC PRIVATE KEY-----
",
    // P-256 with 17 bytes
    "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIAAAAAAAAAAAAAAAAAAAAFpbXF1eX2BhYmNkZWZnaGlqoAoGCCqGSM49
AwEHoUQDQgAEnc63A8J0T9eQyIa66lXYqIas5LxovXxnmcEmJj5ttSQGRLoaZK78
Rzrk7NXRzMceoorwF3GZNPd3gsrAW7eVHw==
-----END EC PRIVATE KEY-----
",
    // P-384 with 31 bytes
    "\
-----BEGIN EC PRIVATE KEY-----
MIGkAgEBBDAAAAAAAAAAAAAAAAAAAAAAAFpbXF1eX2BhYmNkZWZnaGlqa2xtbm9w
cXJzdHV2d3igBwYFK4EEACKhZANiAATV3U+9Xv0FnfPlHbXG0CyH1TecjFTejVTf
eQtugS0lEF6pPdgMJmzhO9Jyd30DIY0yXub2bh/7PQwAKS0GPzC+m3H3hJyu/6vD
q6mIiEQxAe1NG1JFvZLq8WBWjZzG8LY=
-----END EC PRIVATE KEY-----
",
];

fn keygen(args: &[&str], file: &Path) -> String {
    let mut keygen = Command::new("ssh-keygen");
    let done = keygen.args(args).arg("-f").arg(file).output().unwrap();
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ssh-keygen {args:?}: {why}");
    String::from_utf8(done.stdout).unwrap()
}

/// The key `pem` in OpenSSH's format, and its public key as ssh-keygen prints it.
fn openssh(dir: &Path, pem: &str, cipher: &str, passphrase: &str) -> (String, String) {
    let file = dir.join("key");
    fs::write(&file, pem).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    keygen(
        &[
            "-q", "-p", "-a", "1", "-Z", cipher, "-P", "", "-N", passphrase,
        ],
        &file,
    );
    let public = keygen(&["-y", "-P", passphrase], &file);
    (fs::read_to_string(&file).unwrap(), public)
}

#[track_caller]
fn assert_is(key: &PrivateKey, public: &str) {
    let derived = key.public_key().to_openssh().unwrap();
    let fields = |line: &str| -> Vec<String> {
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(fields(&derived), fields(public));
    let algorithm = key.algorithm().to_string();
    let signature =
        crate::sign(key, b"data", &algorithm.replace("ssh-rsa", "rsa-sha2-512")).unwrap();
    let signature = Signature::try_from(&signature[..]).unwrap();
    key.public_key()
        .key_data()
        .verify(b"data", &signature)
        .unwrap();
}

#[test]
fn short_private_numbers_open_with_and_without_a_passphrase() {
    let dir = tempfile::tempdir().unwrap();
    for pem in SHORT {
        let (text, public) = openssh(dir.path(), pem, "aes256-ctr", "");
        assert!(
            PrivateKey::from_bytes(&unarmoured(&text).unwrap()).is_err(),
            "ssh-key reads it by now: this room can go"
        );
        assert_is(&inspect(&text).unwrap().key.unwrap(), &public);
        for cipher in ["aes256-ctr", "aes128-cbc", "aes256-gcm@openssh.com"] {
            let (text, public) = openssh(dir.path(), pem, cipher, PASSPHRASE);
            assert!(inspect(&text).unwrap().key.is_none());
            assert_is(&decrypt(&text, PASSPHRASE).unwrap(), &public);
            assert_eq!(
                decrypt(&text, "wrong").unwrap_err(),
                DecryptError::WrongPassphrase
            );
            let content = unarmoured(&text).unwrap();
            assert!(read_ecdsa(&content, Some("wrong")).is_none());
            assert!(read_ecdsa(&content, None).is_none());
        }
    }
}

#[test]
fn too_many_rounds_are_refused_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = openssh(dir.path(), SHORT[0], "aes256-ctr", PASSPHRASE);
    let mut content = unarmoured(&text).unwrap().to_vec();
    let kdf = b"bcrypt\0\0\0\x18\0\0\0\x10";
    let options = content.windows(kdf.len()).position(|found| found == kdf);
    let rounds = options.unwrap() + kdf.len() + 16;
    content[rounds..rounds + 4].copy_from_slice(&(ROUNDS_LIMIT + 1).to_be_bytes());
    let text = format!("{BEGIN}\n{}\n{END}\n", Base64::encode_string(&content));
    for why in [
        inspect(&text).map(drop).unwrap_err(),
        decrypt(&text, PASSPHRASE).unwrap_err().to_string(),
    ] {
        assert!(why.contains("10001 rounds of bcrypt"), "{why}");
    }
}

#[test]
fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = openssh(dir.path(), SHORT[0], "aes256-ctr", "");
    let content = unarmoured(&text).unwrap();
    assert!(read_ecdsa(&content, None).is_some());
    for len in 0..content.len() {
        assert!(read_ecdsa(&content[..len], None).is_none(), "cut to {len}");
    }
    let longer = [&content[..], &[0]].concat();
    assert!(read_ecdsa(&longer, None).is_none(), "something behind it");
    let mut padded = content.to_vec();
    *padded.last_mut().unwrap() ^= 1;
    assert!(read_ecdsa(&padded, None).is_none(), "wrong padding");
    for at in 0..content.len() {
        let mut wrong = content.to_vec();
        wrong[at] ^= 0xff;
        // The private number and the comment alone are not known twice; nothing else may be wrong, and nothing panics.
        if let Some(read) = read_ecdsa(&wrong, None) {
            let key = inspect(&text).unwrap().key.unwrap();
            assert_eq!(read.public_key().key_data(), key.public_key().key_data());
        }
    }
}
