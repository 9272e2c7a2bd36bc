//! The file that the browser opens: it leads to the page with its one-time key. The key must not be an argument of the
//! browser's command line, which every user of the machine can read.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

/// As long as the one-time key is valid.
const FILE_LIFE: Duration = Duration::from_secs(60);

/// Writes a redirect to `url` to a new file in `folder`, which only this user can read. `tasks` removes it after a minute.
pub(super) fn write(folder: &Path, url: &str, tasks: &mut JoinSet<()>) -> io::Result<String> {
    // Only this URL's characters: it is made from a port and a key, so that nothing needs an escape.
    let page = format!(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"referrer\" content=\"no-referrer\">\
         <meta http-equiv=\"refresh\" content=\"0;url={url}\"><title>tunneld</title>\
         <p><a href=\"{url}\">Open the page of tunneld</a></p></html>\n"
    );
    let path = folder.join(format!("web-{:016x}.html", rand::random::<u64>()));
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&path)?;
    let name = path.display().to_string();
    let removed = RemovedFile(path);
    file.write_all(page.as_bytes())?;
    tasks.spawn(async move {
        sleep(FILE_LIFE).await;
        drop(removed);
    });
    Ok(name)
}

/// A file that is removed on drop, also when the daemon stops.
struct RemovedFile(PathBuf);

impl Drop for RemovedFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
