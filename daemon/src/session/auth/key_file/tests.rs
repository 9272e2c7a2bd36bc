//! Key files on disk, written by ssh-keygen.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

/// An ECDSA key (SEC 1) whose private number has 31 significant bytes instead of 32.
const SHORT: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIABaW1xdXl9gYWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4oAoGCCqGSM49
AwEHoUQDQgAElkYZ2h7A4Ndly6B8rMtGb4ciDXbbwQlG8TIcqQqHdoA9nq1VOpRp
x9lnHvCaKMaZCxP/QYV2dh2IkOPfw2cwLw==
-----END EC PRIVATE KEY-----
";

fn keygen(arguments: &[&str], path: &Path) {
    let status = Command::new("ssh-keygen")
        .args(arguments)
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

fn write_private(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[tokio::test]
async fn a_key_with_a_short_private_number_can_sign() {
    let dir = tempfile::tempdir().unwrap();
    for passphrase in ["", "open sesame"] {
        let path = dir.path().join("key");
        write_private(&path, SHORT.as_bytes());
        // Rewrites the file in OpenSSH's format.
        keygen(&["-q", "-p", "-P", "", "-N", passphrase, "-f"], &path);
        let file = KeyFile::read(&path, true).await.unwrap().unwrap();
        let public = Command::new("ssh-keygen")
            .args(["-y", "-P", passphrase, "-f"])
            .arg(&path)
            .output()
            .unwrap();
        let public = String::from_utf8(public.stdout).unwrap();
        let read = Base64::encode_string(file.public().unwrap());
        assert_eq!(public.split_whitespace().nth(1), Some(&read[..]));
        assert!(file.can_sign());
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped_and_utf16_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    keygen(
        &["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f"],
        &path,
    );
    let text = fs::read_to_string(&path).unwrap();
    write_private(&path, format!("\u{feff}{text}").as_bytes());
    let file = KeyFile::read(&path, true).await.unwrap().unwrap();
    assert!(file.can_sign());
    let utf16: Vec<u8> = "\u{feff}"
        .encode_utf16()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    write_private(&path, &utf16);
    let why = KeyFile::read(&path, true).await.err().unwrap().note();
    assert!(why.contains("UTF-16"), "{why}");
}
