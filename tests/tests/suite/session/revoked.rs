//! RevokedHostKeys: for every kind of revocation list, the daemon's verdict is that of the real ssh.

use std::path::Path;

use anyhow::Result;
use tokio::process::Command;
use tunneld::failure::FailureKind;
use tunneld_config::model::Route;
use tunneld_tests::keys;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::{self, Sshd};

use super::{connect, route};

/// Starts a server whose host certificate has the serial number 5 and the id `the-id`. The file `by_ca` in its folder
/// is a known_hosts file that trusts the authority.
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
        "-n",
        "127.0.0.1",
        "-z",
        "5",
        &host,
    ];
    run_tool("ssh-keygen", &args).await?;
    server.stop().await?;
    let line = format!("HostCertificate {}", path("host_ed25519-cert.pub"));
    server.options_mut().config_lines.push(line);
    server.start_again().await?;
    let ca = std::fs::read_to_string(dir.join("ca.pub"))?;
    std::fs::write(dir.join("by_ca"), format!("@cert-authority * {ca}"))?;
    Ok(server)
}

/// Whether the real ssh accepts the host's key.
async fn ssh_accepts(server: &Sshd, known: &Path, revoked: &Path) -> Result<bool> {
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
        // Ends ssh after its login: sshd itself has this port, so the forward fails.
        .args(["-R", &format!("127.0.0.1:{}:127.0.0.1:1", server.port())])
        .arg(format!("{}@127.0.0.1", sshd::current_user()?))
        .output()
        .await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    Ok(stderr.contains("Authenticated to"))
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
    let fingerprint = keys::fingerprint(&dir.join("host_ed25519.pub")).await?;
    // ssh-keygen encodes many separate serials differently from a few. Only the first series contains 5.
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
        ("ca", format!("hash: {fingerprint}")),
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
        run_tool("ssh-keygen", &["-q", "-k", "-f", krl_name, "-s", &by, from]).await?;
        files.push((
            krl,
            format!("{by} {}", spec.lines().next().unwrap_or_default()),
        ));
    }
    let complete = std::fs::read(dir.join("krl18"))?;
    for (name, content) in [
        ("text: the host's", host.clone().into_bytes()),
        ("text: the authority's", ca.clone().into_bytes()),
        ("text: another's", format!("# old\n\n{other}").into_bytes()),
        (
            "text: a line that is not a key",
            format!("{other}nonsense\n").into_bytes(),
        ),
        (
            "text: a key with options",
            format!("@revoked * {other}").into_bytes(),
        ),
        ("text: empty", Vec::new()),
        ("cut", complete[..complete.len() - 3].to_vec()),
        ("head alone", complete[..44].to_vec()),
        (
            "critical",
            [&complete[..], b"\xff\0\0\0\x0a\0\0\0\x01x\x01\0\0\0\0"].concat(),
        ),
        ("unknown", [&complete[..], b"\x09\0\0\0\0"].concat()),
    ] {
        let path = dir.join(name.replace([':', ' ', '\''], "_"));
        std::fs::write(&path, content)?;
        files.push((path, name.to_owned()));
    }
    files.push((dir.join("missing"), "missing".to_owned()));
    files.push((dir.to_owned(), "a folder".to_owned()));

    let mut route: Route = route(&server);
    let (mut accepted, mut refused) = (0, 0);
    // The host is known once by its certificate's authority and once by its plain key.
    for known in [dir.join("by_ca"), route.host_keys.user_files[0].clone()] {
        route.host_keys.user_files = vec![known.clone()];
        for (file, name) in &files {
            route.host_keys.revoked_files = vec![file.clone()];
            let ours = connect(&route).await;
            let theirs = ssh_accepts(&server, &known, file).await?;
            match &ours {
                Ok(_) => accepted += 1,
                Err(failure) => {
                    refused += 1;
                    let kinds = [
                        FailureKind::HostKeyRevoked,
                        FailureKind::KnownHosts,
                        FailureKind::Unreadable,
                    ];
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
    // A check of the test itself: both verdicts occur.
    assert!(
        accepted > 15 && refused > 25,
        "{accepted} accepted, {refused} refused"
    );
    Ok(())
}
