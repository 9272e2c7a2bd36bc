//! `tunnelctl import`: what other programs saved becomes configuration that the daemon accepts.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use tunneld_tests::ctl::ProgramOutput;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::sshd::{self, Sshd};
use tunneld_tests::target::Target;
use tunneld_tests::{payload, ports};

/// The FoxyProxy export of an EMR guide: seven rules for a SOCKS proxy at port 8157.
const EMR: &str = include_str!("../../../ctl/src/import/foxyproxy/emr.xml");

/// A PuTTY session, as Windows exports it.
const REGISTRY: &str = "Windows Registry Editor Version 5.00\r\n\r\n\
    [HKEY_CURRENT_USER\\Software\\SimonTatham\\PuTTY\\Sessions\\emr%20master]\r\n\
    \"HostName\"=\"hadoop@emr.example\"\r\n\"Protocol\"=\"ssh\"\r\n\"PortNumber\"=dword:000008ae\r\n\
    \"PublicKeyFile\"=\"C:\\\\k.ppk\"\r\n\"PortForwardings\"=\"L8088=localhost:8088,D8157=,\"\r\n\
    \"Comment\"=\"\u{e9}\"\r\n";

fn file(home: &Home, name: &str, bytes: impl AsRef<[u8]>) -> Result<String> {
    let path = home.path(name);
    std::fs::write(&path, bytes)?;
    Ok(path.display().to_string())
}

fn utf16(text: &str) -> Vec<u8> {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    units.flat_map(u16::to_le_bytes).collect()
}

fn config(home: &Home, name: &str) -> Result<String> {
    let path = home.config_dir().join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Runs `tunnelctl import ARGS`, once to print and once to write; what was printed and what was written must both pass
/// `tunneld check`. Returns the printed TOML.
async fn import(home: &Home, args: &[&str]) -> Result<String> {
    let printed = home
        .ctl(&[&["import"], args].concat())
        .await?
        .expect_exit(0)?;
    let other = Home::without_config()?;
    std::fs::write(other.config_dir().join("all.toml"), &printed.stdout)?;
    let checked = other.run("tunneld", &["check"]).await?;
    ensure!(checked.exit_code == 0, "{checked:#?}\n{}", printed.stdout);
    home.ctl(&[&["import", "--write"], args].concat())
        .await?
        .expect_exit(0)?;
    home.run("tunneld", &["check"]).await?.expect_exit(0)?;
    Ok(printed.stdout)
}

/// Runs `tunnelctl import ARGS`, which must fail with one error that has these words, and change nothing.
async fn refused(home: &Home, args: &[&str], words: &str) -> Result<ProgramOutput> {
    let output = home
        .ctl(&[&["import", "--write"], args].concat())
        .await?
        .expect_exit(2)?;
    ensure!(
        output.stderr.contains(words),
        "without {words:?}: {output:#?}"
    );
    ensure!(output.stderr.matches("error:").count() == 1, "{output:#?}");
    ensure!(output.stderr.contains("hint:"), "{output:#?}");
    ensure!(!output.stderr.contains("panicked"), "{output:#?}");
    ensure!(
        std::fs::read_dir(home.config_dir())?.count() == 0,
        "a file was written"
    );
    Ok(output)
}

#[tokio::test]
async fn the_seven_rules_of_the_emr_guide_are_imported_from_foxyproxy() -> Result<()> {
    let home = Home::without_config()?;
    let path = file(&home, "foxyproxy.xml", EMR)?;
    let text = import(&home, &["foxyproxy", &path]).await?;
    for pattern in [
        "*ec2*.amazonaws.com",
        "*ec2*.compute*",
        "10.0.0.0/8",
        "*10*.amazonaws.com",
        "*10*.compute*",
        "*.compute.internal",
        "*.ec2.internal",
    ] {
        ensure!(
            text.contains(&format!("\"{pattern}\"")),
            "{pattern}: {text}"
        );
    }
    ensure!(text.contains("dynamic_forward = 8157"), "{text}");
    ensure!(!text.contains("not carried over"), "{text}");
    assert_eq!(config(&home, "emr-socks-proxy.toml")?, text);
    Ok(())
}

#[tokio::test]
async fn rules_are_added_to_a_tunnel_that_exists_and_nothing_else_changes() -> Result<()> {
    let home = Home::without_config()?;
    let before = "# mine\n[tunnel.emr] # the cluster\nhost = \"hadoop@emr.example\" # its master\nssh_config = false\n\
                  dynamic_forward = 8157 # SOCKS\n\n[tunnel.other]\nssh_config = false\n";
    home.write("work.toml", before)?;
    let path = file(&home, "foxyproxy.xml", EMR)?;
    for _ in 0..2 {
        home.ctl(&["import", "foxyproxy", &path, "--name", "emr", "--write"])
            .await?
            .expect_exit(0)?;
    }
    let after = config(&home, "work.toml")?;
    for line in before.lines() {
        ensure!(after.lines().any(|other| other == line), "{line}: {after}");
    }
    ensure!(after.contains("\"*.ec2.internal\""), "{after}");
    // The tunnel has its host already, so it needs no hint and starts as before.
    ensure!(
        !after.contains("autostart") && !after.contains("user@server"),
        "{after}"
    );
    ensure!(after.matches("became the network").count() == 1, "{after}");
    home.run("tunneld", &["check"]).await?.expect_exit(0)?;
    Ok(())
}

#[tokio::test]
async fn sessions_of_putty_are_imported_from_the_registry_in_both_encodings() -> Result<()> {
    for bytes in [utf16(REGISTRY), REGISTRY.chars().map(|c| c as u8).collect()] {
        let home = Home::without_config()?;
        let path = file(&home, "putty.reg", bytes)?;
        let text = import(&home, &["putty", &path]).await?;
        for line in [
            "[tunnel.emr-master]",
            "host = \"hadoop@emr.example\"",
            "port = 2222",
            "local_forward = [\"8088 localhost:8088\"]",
            "dynamic_forward = [\"8157\"]",
            "# identity_file = ",
        ] {
            ensure!(text.contains(line), "{line}: {text}");
        }
    }
    Ok(())
}

/// PuTTY's own program accepts the session before it is imported, so the file is what PuTTY reads.
#[tokio::test]
async fn a_session_that_plink_reads_is_imported_from_its_folder() -> Result<()> {
    let home = Home::without_config()?;
    let sessions = home.user_dir().join(".putty/sessions");
    std::fs::create_dir_all(&sessions)?;
    std::fs::write(
        sessions.join("emr%20master"),
        "Present=1\nHostName=emr.invalid\nProtocol=ssh\nPortNumber=2222\nUserName=hadoop\n\
         PortForwardings=L8088=localhost:8088,D8157=,\n",
    )?;
    let plink = Command::new("plink")
        .args(["-batch", "-v", "-load", "emr master"])
        .env("HOME", home.user_dir())
        .output()
        .context("plink (Debian package putty-tools)")?;
    let said = String::from_utf8_lossy(&plink.stderr).into_owned();
    ensure!(
        said.contains("emr.invalid"),
        "plink did not read the session: {said}"
    );
    let text = import(&home, &["putty"]).await?;
    ensure!(text.contains("[tunnel.emr-master]"), "{text}");
    ensure!(text.contains("user = \"hadoop\""), "{text}");
    Ok(())
}

#[tokio::test]
async fn bookmarks_units_agents_and_rule_lists_are_imported() -> Result<()> {
    let home = Home::without_config()?;
    let moba = "[Bookmarks]\r\nSubRep=\r\nImgNum=42\r\nBastion \u{e9}=#109#0%198.51.100.7%2222%ec2-user%%-1%-1%%j%22%me%0%0%0%C:\\k.pem%#x\r\n";
    let moba: Vec<u8> = moba.chars().map(|c| c as u8).collect();
    let unit = "[Service]\nExecStart=/usr/bin/autossh -M 0 -N -o \"ServerAliveInterval 30\" \\\n  -L 5432:db:5432 -i %h/k.pem me@unit.example\n";
    let plist = "<?xml version=\"1.0\"?><!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\
        <plist version=\"1.0\"><dict><key>Label</key><string>t</string><key>ProgramArguments</key><array>\
        <string>/usr/bin/ssh</string><string>-NR</string><string>9000:localhost:80</string><string>agent.example</string></array></dict></plist>";
    let omega = r#"{"+emr": {"profileType": "FixedProfile", "name": "omega", "fallbackProxy": {"scheme": "socks5", "host": "127.0.0.1", "port": 8158}},
        "+auto": {"profileType": "SwitchProfile", "name": "auto", "defaultProfileName": "direct", "rules": [
            {"condition": {"conditionType": "HostWildcardCondition", "pattern": "bastion.internal"}, "profileName": "direct"},
            {"condition": {"conditionType": "HostWildcardCondition", "pattern": "*.internal"}, "profileName": "emr"},
            {"condition": {"conditionType": "HostWildcardCondition", "pattern": "*.internal"}, "profileName": "omega"}]}}"#;
    let list = "[SwitchyOmega Conditions]\n*.listed.example\nKeyword: x\n";
    for (format, name, bytes, expected) in [
        ("mobaxterm", "a.mxtsessions", moba, "[tunnel.Bastion]"),
        (
            "unit",
            "my.service",
            unit.into(),
            "local_forward = [\"5432:db:5432\"]",
        ),
        (
            "launchd",
            "my.plist",
            plist.into(),
            "remote_forward = [\"9000:localhost:80\"]",
        ),
        (
            "switchyomega",
            "OmegaOptions.bak",
            omega.into(),
            "\"!bastion.internal\"",
        ),
        (
            "switchyomega",
            "list.txt",
            list.into(),
            "\"*.listed.example\"",
        ),
    ] {
        let path = file(&home, name, bytes)?;
        let text = import(&home, &[format, &path]).await?;
        ensure!(text.contains(expected), "{name}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn hosts_of_an_ssh_config_with_forwards_are_imported() -> Result<()> {
    let home = Home::without_config()?;
    file(&home, "more", "Host included\n  DynamicForward 1082\n")?;
    let more = home.path("more").display().to_string();
    let text = format!(
        "Include {more}\nHost mahuika\n  HostName login.example\n  LocalForward 6676 mahuika:6676\nHost plain\n  User x\n"
    );
    let path = file(&home, "ssh_config", text)?;
    let text = import(&home, &["ssh-config", &path]).await?;
    ensure!(
        text.contains("[tunnel.mahuika]") && text.contains("[tunnel.included]"),
        "{text}"
    );
    ensure!(!text.contains("plain"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_pasted_command_line_is_imported_without_its_programs_and_passwords() -> Result<()> {
    let home = Home::without_config()?;
    let text = import(
        &home,
        &[
            "--",
            "sshpass",
            "-p",
            "geheim",
            "autossh",
            "-M",
            "0",
            "-fN",
            "-o",
            "ProxyCommand=nc %h %p",
            "-L",
            "8088:localhost:8088",
            "hadoop@emr.example",
        ],
    )
    .await?;
    ensure!(text.contains("\n# proxy_command = \"nc %h %p\""), "{text}");
    ensure!(text.contains("password_command"), "{text}");
    ensure!(!text.contains("geheim"), "{text}");
    let written = config(&home, "emr.example.toml")?;
    assert_eq!(written, text);
    let sshuttle = import(
        &home,
        &["--", "sshuttle", "-r", "me@shuttle.example", "10.0.0.0/8"],
    )
    .await?;
    ensure!(
        sshuttle.contains("# subnets = [\"10.0.0.0/8\"]"),
        "{sshuttle}"
    );
    Ok(())
}

/// The line that a user of plain ssh has, imported and then started: the forward carries bytes.
#[tokio::test]
async fn an_imported_command_line_comes_up() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let home = Home::new()?;
    let known = server.dir().join("known");
    std::fs::write(&known, server.known_hosts_lines(server.port())?)?;
    let (known, key) = (
        format!("UserKnownHostsFile={}", known.display()),
        server.user_key(),
    );
    let key = key.to_str().context("UTF-8")?;
    let (port, ssh_port) = (ports::free()?, server.port().to_string());
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", target.port());
    let dest = format!("{}@127.0.0.1", sshd::current_user()?);
    let args = [
        "import", "--write", "--name", "pasted", "--", "autossh", "-M", "0", "-fNL", &forward,
        "-p", &ssh_port, "-i", key, "-o", &known, &dest,
    ];
    home.ctl(&args).await?.expect_exit(0)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("pasted").await?;
    let mut client = TcpStream::connect(ports::local(port)).await?;
    payload::ping(&mut client, b"imported").await
}

#[tokio::test]
async fn hostile_files_are_one_clear_error() -> Result<()> {
    let home = Home::without_config()?;
    let bomb =
        "<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><foxyproxy>&b;</foxyproxy>";
    let outside =
        "<!DOCTYPE a [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><foxyproxy>&a;</foxyproxy>";
    let huge = vec![b'<'; 17 << 20];
    let deep_xml = "<a>".repeat(1_000_000);
    let deep_json = "[".repeat(1_000_000);
    for (format, bytes, words) in [
        ("foxyproxy", bomb.into(), "entities"),
        ("foxyproxy", outside.into(), "entities"),
        ("foxyproxy", huge, "16 MiB"),
        ("foxyproxy", deep_xml.clone().into_bytes(), "in each other"),
        ("foxyproxy", deep_json.into_bytes(), "JSON"),
        ("foxyproxy", vec![0xff, 0xfe, 0, 0xd8], "UTF-16"),
        ("foxyproxy", b"caf\xe9".to_vec(), "UTF-8"),
        ("switchyomega", b"{\"+a\": ".to_vec(), "not a backup"),
        ("launchd", deep_xml.into_bytes(), "in each other"),
        ("launchd", b"bplist00".to_vec(), "plutil"),
        ("putty", b"\x89PNG\r\n".to_vec(), "not a session"),
        ("mobaxterm", b"MZ\0\0".to_vec(), "NUL"),
        (
            "unit",
            b"[Service]\nExecStart=/bin/sh -c 'a; ssh h'".to_vec(),
            "needs a shell",
        ),
        ("ssh-config", vec![b'\xe9'; 10], "UTF-8"),
    ] {
        let path = file(&home, "hostile", bytes)?;
        refused(&home, &[format, &path], words)
            .await
            .with_context(|| format.to_owned())?;
    }
    refused(&home, &["foxyproxy", "/dev/zero"], "16 MiB").await?;
    let missing: PathBuf = home.path("missing");
    refused(&home, &["unit", &missing.display().to_string()], "reading").await?;
    Ok(())
}

#[tokio::test]
async fn a_broken_file_of_the_configuration_is_left_as_it_is() -> Result<()> {
    let home = Home::without_config()?;
    home.write("b.example.toml", "[tunnel.\n")?;
    let list = "ssh_config";
    let text = "Host a.example b.example\n  DynamicForward 1080\n";
    let path = file(&home, list, text)?;
    let output = home
        .ctl(&["import", "ssh-config", &path, "--write"])
        .await?
        .expect_exit(2)?;
    ensure!(output.stderr.contains("not valid TOML"), "{output:#?}");
    ensure!(output.stderr.contains("nothing was changed"), "{output:#?}");
    assert_eq!(config(&home, "b.example.toml")?, "[tunnel.\n");
    // The first tunnel was written before the second failed.
    ensure!(!home.config_dir().join("a.example.toml").exists());
    Ok(())
}
