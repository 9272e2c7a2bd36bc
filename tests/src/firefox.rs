//! Headless Firefox, as a browser of a user, and what its proxy settings do with a URL. It is asked by Marionette, the
//! protocol that geckodriver speaks with it: a length, a colon, and a JSON array.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::process::{Process, write_script};
use crate::unprivileged::{NOBODY, as_ordinary_user};
use crate::wait::LONG;

/// Asks Firefox's own proxy service, which evaluates the PAC file. The answers are `direct` or `TYPE HOST:PORT`.
const ASK: &str = r#"
const [urls, done] = arguments;
const service = Cc["@mozilla.org/network/protocol-proxy-service;1"].getService(Ci.nsIProtocolProxyService);
const principal = Services.scriptSecurityManager.getSystemPrincipal();
const flags = Ci.nsILoadInfo.SEC_ALLOW_CROSS_ORIGIN_SEC_CONTEXT_IS_NULL;
const ask = url => new Promise(resolve => {
  const uri = Services.io.newURI(url);
  const channel = Services.io.newChannelFromURI(uri, null, principal, null, flags, Ci.nsIContentPolicy.TYPE_OTHER);
  const answered = (_request, _channel, info) => resolve(info ? `${info.type} ${info.host}:${info.port}` : "direct");
  service.asyncResolve(channel, 0, { onProxyAvailable: answered });
});
Promise.all(urls.map(ask)).then(done, error => done([String(error)]));
"#;

/// Writes a program named `firefox` to `folder`. It runs the real one without a screen, and its pages may close their
/// window, which ends it. Its arguments are passed on.
///
/// # Errors
/// If it cannot be written.
pub fn write_program(folder: &Path) -> Result<std::path::PathBuf> {
    let program = folder.join("firefox");
    // The profile's folder belongs to the caller, so it is handed over.
    let hand_over = if rustix::process::geteuid().is_root() {
        format!("chown -R {NOBODY} \"$profile\"")
    } else {
        String::new()
    };
    let as_user = as_ordinary_user("\"$profile\"");
    let script = format!(
        "last=\nfor argument in \"$@\"; do [ \"$last\" != --profile ] || profile=$argument; last=$argument; done\n\
         echo 'user_pref(\"dom.allow_scripts_to_close_windows\", true);' >>\"$profile/user.js\"\n\
         echo 'user_pref(\"marionette.port\", 0);' >>\"$profile/user.js\"\n\
         {hand_over}\n\
         exec {as_user} env -u DBUS_SESSION_BUS_ADDRESS -u XDG_RUNTIME_DIR -u XDG_CONFIG_HOME -u TMPDIR /usr/bin/firefox-esr --headless \"$@\""
    );
    write_script(&program, &script)?;
    Ok(program)
}

/// Starts Firefox with these preferences and returns what it would use for each URL: `direct` or `http HOST:PORT`.
///
/// # Errors
/// If it does not start or does not answer.
pub async fn proxies_for(preferences: &[(&str, Value)], urls: &[&str]) -> Result<Vec<String>> {
    let folder = tempfile::Builder::new().prefix("lab-firefox").tempdir()?;
    rustix::fs::chmod(folder.path(), 0o755.into())?;
    let profile = folder.path().join("profile");
    std::fs::create_dir(&profile)?;
    let lines = preferences.iter();
    let lines: String = lines
        .map(|(name, value)| format!("user_pref({name:?}, {value});\n"))
        .collect();
    std::fs::write(profile.join("user.js"), lines)?;
    let mut command = tokio::process::Command::new(write_program(folder.path())?);
    command.args([
        "--no-remote",
        "--marionette",
        "--remote-allow-system-access",
        "--profile",
    ]);
    command.arg(&profile).arg("about:blank");
    let mut firefox = Process::start("firefox", command)?;
    let line = firefox.log().wait("Listening on port ", LONG).await?;
    let port = line.rsplit(' ').next().context("a port")?.parse()?;
    let mut marionette = Marionette::connect(port).await?;
    marionette.call("WebDriver:NewSession", json!({})).await?;
    let chrome = json!({ "value": "chrome" });
    marionette.call("Marionette:SetContext", chrome).await?;
    let script = json!({ "script": ASK, "args": [urls], "scriptTimeout": 20000 });
    let answers = marionette
        .call("WebDriver:ExecuteAsyncScript", script)
        .await?;
    let answers = serde_json::from_value(answers["value"].clone())?;
    marionette.call("Marionette:Quit", json!({})).await?;
    firefox.wait_exit(LONG).await?;
    Ok(answers)
}

struct Marionette {
    stream: BufReader<TcpStream>,
    last_id: u64,
}

impl Marionette {
    async fn connect(port: u16) -> Result<Self> {
        let stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
        let mut marionette = Self { stream, last_id: 0 };
        let hello = marionette.receive().await?;
        ensure!(
            hello["marionetteProtocol"] == 3,
            "an unknown protocol: {hello}"
        );
        Ok(marionette)
    }

    async fn call(&mut self, name: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let message = json!([0, self.last_id, name, params]).to_string();
        let message = format!("{}:{message}", message.len());
        self.stream.write_all(message.as_bytes()).await?;
        let reply = self.receive().await?;
        ensure!(reply[2].is_null(), "{name}: {reply}");
        Ok(reply[3].clone())
    }

    async fn receive(&mut self) -> Result<Value> {
        let mut length = Vec::new();
        self.stream.read_until(b':', &mut length).await?;
        let length = std::str::from_utf8(&length)?.trim_end_matches(':');
        let mut message = vec![0; length.parse().context("not a length")?];
        self.stream.read_exact(&mut message).await?;
        Ok(serde_json::from_slice(&message)?)
    }
}
