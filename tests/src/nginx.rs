//! A private nginx: a real HTTP origin for tests of the proxy.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::{Process, descendants, run_tool, signal};
use crate::wait::LONG;

/// The largest body that `/upload` takes, in bytes. Larger ones get 413 before they are read.
pub const MAX_UPLOAD: usize = 1024 * 1024;

/// The name in the certificate of [`Nginx::tls_port`].
pub const NAME: &str = "far.test";

/// A running nginx, killed with its workers on drop. It serves the files of [`Nginx::root`], answers `/upload` with 204,
/// and closes the connection after each response below `/close/`.
pub struct Nginx {
    dir: TempDir,
    port: u16,
    tls_port: u16,
    process: Process,
}

impl Nginx {
    /// Starts it on 127.0.0.1.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-nginx").tempdir()?;
        let (port, tls_port) = (crate::ports::free()?, crate::ports::free()?);
        let path = dir.path().display();
        std::fs::create_dir(dir.path().join("root"))?;
        std::fs::create_dir(dir.path().join("root/close"))?;
        // Without `user`, the workers of a root's nginx run as a user that cannot read the folder.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        make_certificate(dir.path()).await?;
        let config = format!(
            "daemon off; {user} worker_processes 1; pid {path}/pid; error_log stderr notice;
             events {{ }}
             http {{
                access_log {path}/access.log;
                client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
                uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
                server {{
                    listen 127.0.0.1:{port};
                    listen 127.0.0.1:{tls_port} ssl;
                    ssl_certificate {path}/certificate.pem;
                    ssl_certificate_key {path}/key.pem;
                    root {path}/root;
                    client_max_body_size {MAX_UPLOAD};
                    location /upload {{ proxy_pass http://127.0.0.1:{port}/taken; }}
                    location /taken {{ return 204; }}
                    location /close/ {{ keepalive_timeout 0; }}
                }}
             }}"
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        command.arg("-e").arg("stderr").arg("-c").arg(&file);
        let process = Process::start("nginx", command)?;
        process.log().wait("start worker process ", LONG).await?;
        Ok(Self {
            dir,
            port,
            tls_port,
            process,
        })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port on which it serves the same over TLS, as [`NAME`].
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The certificate of the TLS port, which is its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("certificate.pem")
    }

    /// The folder of the files that it serves.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The lines of its access log: one per request.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn requests(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.dir.path().join("access.log"))?;
        Ok(log.lines().map(str::to_owned).collect())
    }
}

/// Makes `key.pem` and `certificate.pem` in `folder`.
async fn make_certificate(folder: &Path) -> Result<()> {
    let path = |name: &str| folder.join(name).display().to_string();
    let (subject, names) = (format!("/CN={NAME}"), format!("subjectAltName=DNS:{NAME}"));
    let (key, certificate) = (path("key.pem"), path("certificate.pem"));
    let args = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        &subject,
        "-addext",
        &names,
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    run_tool("openssl", &args).await?;
    Ok(())
}

impl Drop for Nginx {
    fn drop(&mut self) {
        for pid in descendants(self.process.pid()) {
            let _ = signal(pid, Signal::KILL);
        }
    }
}
