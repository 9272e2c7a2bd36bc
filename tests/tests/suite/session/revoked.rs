//! RevokedHostKeys: lists of ssh-keygen's, judged as the real ssh judges them.

use std::path::Path;

use anyhow::Result;
use tokio::process::Command;
use tunneld::failure::FailureKind;
use tunneld_config::model::Route;
use tunneld_tests::keys;
use tunneld_tests::sshd::{self, Sshd};

use super::{connect, route};

/// A server with a certificate of the serial number 5 and the name `the-id`, and what trusts it.
async fn certified() -> Result<Sshd> {
    let mut server = Sshd::start().await?;
    let dir = server.dir().to_owned();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    for name in ["ca", "other"] {
        keys::generate(&dir.join(name), "ed25519").await?;
    }
    let host = path("host_ed25519.pub");
    let args = [
        "-q",
        "-s",
        &path("ca"),
        "-I",
        "the-id",
        "-h",
        "-z",
        "5",
        &host,
    ];
    keys::run("ssh-keygen", &args).await?;
    server.stop().await?;
    let line = format!("HostCertificate {}", path("host_ed25519-cert.pub"));
    server.setup_mut().lines.push(line);
    server.resume().await?;
    let ca = std::fs::read_to_string(dir.join("ca.pub"))?;
    std::fs::write(dir.join("by_ca"), format!("@cert-authority * {ca}"))?;
    Ok(server)
}

/// Whether the real ssh takes the host's key.
async fn ssh_takes(server: &Sshd, known: &Path, revoked: &Path) -> Result<bool> {
    let option = |name: &str, path: &Path| format!("{name}={}", path.display());
    let output = Command::new("ssh")
        .args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
        ])
        .args([
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "GlobalKnownHostsFile=none",
        ])
        .args(["-o", &option("UserKnownHostsFile", known)])
        .args(["-o", &option("RevokedHostKeys", revoked)])
        .args(["-o", &option("IdentityFile", &server.user_key())])
        .args([
            "-p",
            &server.port().to_string(),
            "-N",
            "-v",
            "-o",
            "ExitOnForwardFailure=yes",
        ])
        // Ends ssh once it is in: the port is sshd's own.
        .args(["-R", &format!("127.0.0.1:{}:127.0.0.1:1", server.port())])
        .arg(format!("{}@127.0.0.1", sshd::user()?))
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(said.contains("Authenticated to"))
}

#[tokio::test]
async fn every_revocation_list_is_judged_as_by_ssh() -> Result<()> {
    let server = certified().await?;
    let dir = server.dir();
    let public = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let (host, ca, other) = (
        public("host_ed25519.pub"),
        public("ca.pub"),
        public("other.pub"),
    );
    let print = keys::fingerprint(&dir.join("host_ed25519.pub")).await?;
    let scattered: String = (1..400)
        .map(|n| format!("serial: {}\n", n * 2 + 3))
        .collect();
    let even: String = (1..400).map(|n| format!("serial: {}\n", n * 2)).collect();
    let specs = [
        ("ca", "serial: 5".to_owned()),
        ("ca", "serial: 6".to_owned()),
        ("ca", "serial: 3-7".to_owned()),
        ("ca", "serial: 6-9".to_owned()),
        ("ca", scattered),
        ("ca", even),
        ("ca", "id: the-id".to_owned()),
        ("ca", "id: the-ID".to_owned()),
        ("other", "serial: 5".to_owned()),
        ("none", "serial: 5".to_owned()),
        ("none", "id: the-id".to_owned()),
        ("ca", format!("key: {host}")),
        ("ca", format!("key: {ca}")),
        ("ca", format!("key: {other}")),
        ("ca", format!("sha1: {host}")),
        ("ca", format!("sha1: {other}")),
        ("ca", format!("sha256: {host}")),
        ("ca", format!("sha256: {ca}")),
        ("ca", format!("sha256: {other}")),
        ("ca", format!("hash: {print}")),
    ];
    let mut files = Vec::new();
    for (n, (by, spec)) in specs.iter().enumerate() {
        let (krl, from) = (dir.join(format!("krl{n}")), dir.join(format!("spec{n}")));
        std::fs::write(&from, spec)?;
        let by = match *by {
            "none" => "none".to_owned(),
            name => dir.join(format!("{name}.pub")).display().to_string(),
        };
        let (krl_name, from) = (krl.to_str().unwrap(), from.to_str().unwrap());
        keys::run("ssh-keygen", &["-q", "-k", "-f", krl_name, "-s", &by, from]).await?;
        files.push((
            krl,
            format!("{by} {}", spec.lines().next().unwrap_or_default()),
        ));
    }
    let whole = std::fs::read(dir.join("krl18"))?;
    for (name, content) in [
        ("text: the host's", host.clone().into_bytes()),
        ("text: the authority's", ca.clone().into_bytes()),
        ("text: another's", format!("# old\n\n{other}").into_bytes()),
        (
            "text: a line that is no key",
            format!("{other}nonsense\n").into_bytes(),
        ),
        (
            "text: a key with options",
            format!("@revoked * {other}").into_bytes(),
        ),
        ("text: empty", Vec::new()),
        ("cut", whole[..whole.len() - 3].to_vec()),
        ("head alone", whole[..44].to_vec()),
        (
            "critical",
            [&whole[..], b"\xff\0\0\0\x0a\0\0\0\x01x\x01\0\0\0\0"].concat(),
        ),
        ("unknown", [&whole[..], b"\x09\0\0\0\0"].concat()),
    ] {
        let path = dir.join(name.replace([':', ' ', '\''], "_"));
        std::fs::write(&path, content)?;
        files.push((path, name.to_owned()));
    }
    files.push((dir.join("missing"), "missing".to_owned()));
    files.push((dir.to_owned(), "a folder".to_owned()));

    let mut route: Route = route(&server);
    let (mut taken, mut refused) = (0, 0);
    // By its authority, and, without the certificate, by its key.
    for known in [dir.join("by_ca"), route.host_keys.user_files[0].clone()] {
        route.host_keys.user_files = vec![known.clone()];
        for (file, name) in &files {
            route.host_keys.revoked_files = vec![file.clone()];
            let ours = connect(&route).await;
            let theirs = ssh_takes(&server, &known, file).await?;
            match &ours {
                Ok(_) => taken += 1,
                Err(failure) => {
                    refused += 1;
                    let kinds = [FailureKind::HostKeyRevoked, FailureKind::KnownHosts];
                    assert!(kinds.contains(&failure.kind), "{name}: {failure:?}");
                }
            }
            assert_eq!(
                ours.is_ok(),
                theirs,
                "{name}, {}: {:?}",
                known.display(),
                ours.err()
            );
        }
    }
    assert!(
        taken > 15 && refused > 25,
        "{taken} taken, {refused} refused"
    );
    Ok(())
}
