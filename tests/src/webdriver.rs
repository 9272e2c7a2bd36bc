//! A headless Chromium that a test drives through chromedriver (W3C WebDriver).

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process::{Process, command_with_prefix, run_tool};
use crate::unprivileged;
use crate::wait::{LONG, within};

/// A browser with one tab. Dropping it ends the driver, which ends the browser.
pub struct Browser {
    driver: Process,
    /// `http://127.0.0.1:PORT/session/ID`.
    session: String,
}

impl Browser {
    /// Starts the driver and a browser with an empty profile in `folder`.
    ///
    /// # Errors
    /// If one of them does not start.
    pub async fn start(folder: &Path) -> Result<Self> {
        let profile = folder.join("profile");
        std::fs::create_dir_all(&profile)?;
        unprivileged::hand_over(folder).await?;
        let mut command = command_with_prefix(&unprivileged::command_prefix(), "chromedriver");
        command
            .args(["--port=0", "--log-level=SEVERE"])
            .env("HOME", folder)
            .env("TMPDIR", folder)
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .current_dir(folder);
        let driver = Process::start("chromedriver", command)?;
        let line = driver
            .log()
            .wait("started successfully on port", LONG)
            .await?;
        let port = line.trim_end_matches('.').rsplit(' ').next();
        let root = format!("http://127.0.0.1:{}", port.context("no port")?);
        let options = json!({
            "binary": "/usr/bin/chromium",
            "args": [
                "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                "--disable-dev-shm-usage", format!("--user-data-dir={}", profile.display()),
            ],
        });
        let capabilities = json!({
            "capabilities": {"alwaysMatch": {
                "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"},
            }},
        });
        let started = request("POST", &format!("{root}/session"), Some(&capabilities)).await?;
        let id = started["sessionId"].as_str().context("no session")?;
        let session = format!("{root}/session/{id}");
        Ok(Self { driver, session })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = request("POST", &format!("{}{path}", self.session), Some(body)).await;
        answer.with_context(|| self.driver.log().text())
    }

    /// Opens an address and waits until the page has loaded.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({"url": url})).await.map(drop)
    }

    /// Runs the body of a function in the page, and returns what it returns. A promise is waited for.
    ///
    /// # Errors
    /// If it throws.
    pub async fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
            .await
    }

    /// Runs `script` again and again until it returns true.
    ///
    /// # Errors
    /// If it does not in time; the message contains the page's text.
    pub async fn until(&self, script: &str) -> Result<()> {
        let reached = within(LONG, script, async {
            while self.run(script).await? != Value::Bool(true) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        });
        if reached.await.is_ok_and(|result| result.is_ok()) {
            return Ok(());
        }
        let text = self.run("return document.body.innerText").await?;
        bail!("not reached: {script}\nthe page: {text}");
    }
}

/// The value of the driver's answer.
async fn request(method: &str, url: &str, body: Option<&Value>) -> Result<Value> {
    let text = body.map(Value::to_string).unwrap_or_default();
    let mut args = vec!["-s", "-m", "60", "-X", method, url];
    if body.is_some() {
        args.extend([
            "-H",
            "Content-Type: application/json",
            "--data-binary",
            &text,
        ]);
    }
    let answer: Value = serde_json::from_str(&run_tool("curl", &args).await?)?;
    if answer["value"]["error"].is_string() {
        bail!(
            "{}: {}",
            answer["value"]["error"],
            answer["value"]["message"]
        );
    }
    Ok(answer["value"].clone())
}
