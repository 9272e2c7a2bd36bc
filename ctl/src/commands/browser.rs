//! The browsers that `browse` can start: where they are, and the profile and arguments that make one use a proxy.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The two kinds of settings that browsers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Chromium, Chrome, Edge, Brave, Vivaldi: arguments.
    Chromium,
    /// Firefox: a file `user.js` in the profile.
    Firefox,
}

/// A browser program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Browser {
    pub(super) program: PathBuf,
    pub(super) family: Family,
}

/// What the browser uses the proxy for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    /// Every page.
    All,
    /// What `proxy_for` says: the proxy's own auto-configuration file.
    ByPac,
}

/// What a browser is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setup<'a> {
    /// The folder of its profile, which exists.
    pub(super) profile: &'a Path,
    /// The proxy, as `HOST:PORT`.
    pub(super) proxy: &'a str,
    pub(super) traffic: Traffic,
    /// Whether `localhost` is the far side's.
    pub(super) far_localhost: bool,
    /// `None` for the browser's start page.
    pub(super) url: Option<&'a str>,
}

/// Program names, the best first: a Chromium takes its proxy as an argument and opens fastest.
const NAMES: &[&str] = &[
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "microsoft-edge-stable",
    "microsoft-edge",
    "brave-browser",
    "vivaldi-stable",
    "firefox",
    "firefox-esr",
];

/// Where macOS and Windows install browsers, which are not in PATH there.
const PATHS: &[&str] = &[
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "/Applications/Firefox.app/Contents/MacOS/firefox",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    r"C:\Program Files\Mozilla Firefox\firefox.exe",
];

impl Browser {
    /// Returns the browser at `program`; `None` if its name is not that of a known one.
    pub(super) fn at(program: PathBuf) -> Option<Self> {
        let name = program.file_stem()?.to_str()?.to_ascii_lowercase();
        let has = |part: &&str| name.contains(*part);
        let family = if has(&"firefox") {
            Family::Firefox
        } else if ["chrom", "edge", "brave", "vivaldi"].iter().any(has) {
            Family::Chromium
        } else {
            return None;
        };
        Some(Self { program, family })
    }

    /// Returns the browser that `$BROWSER` names if it is a known one, else the first that is installed.
    pub(super) fn find(preferred: Option<&OsStr>, path: Option<&OsStr>) -> Option<Self> {
        let in_path = |name: &str| {
            std::env::split_paths(path?)
                .map(|folder| folder.join(name))
                .find(|program| program.is_file())
        };
        let preferred = preferred.and_then(|program| {
            let program = PathBuf::from(program);
            let found = match program.to_str() {
                Some(name) if !name.contains(['/', '\\']) => in_path(name)?,
                _ => program,
            };
            found.is_file().then_some(found).and_then(Self::at)
        });
        let installed = || {
            let by_name = NAMES.iter().filter_map(|name| in_path(name));
            let by_path = PATHS
                .iter()
                .map(PathBuf::from)
                .filter(|path| path.is_file());
            by_name.chain(by_path).find_map(Self::at)
        };
        preferred.or_else(installed)
    }

    /// Returns the arguments. Every one is ours but the URL, which is checked before.
    pub(super) fn arguments(&self, setup: &Setup<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        match self.family {
            Family::Chromium => {
                arguments.push(joined("--user-data-dir=", setup.profile.as_os_str()));
                let proxy = match setup.traffic {
                    Traffic::All => format!("--proxy-server=http://{}", setup.proxy),
                    Traffic::ByPac => format!("--proxy-pac-url=http://{}/proxy.pac", setup.proxy),
                };
                arguments.push(proxy.into());
                if setup.far_localhost {
                    // Takes loopback out of the addresses that never use a proxy.
                    arguments.push("--proxy-bypass-list=<-loopback>".into());
                }
                for argument in [
                    "--no-first-run",
                    "--no-default-browser-check",
                    // WebRTC would send UDP past the proxy, from this machine's own addresses.
                    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
                ] {
                    arguments.push(argument.into());
                }
            }
            Family::Firefox => {
                arguments.push("--no-remote".into());
                arguments.push("--profile".into());
                arguments.push(setup.profile.into());
            }
        }
        arguments.extend(setup.url.map(OsString::from));
        arguments
    }
}

fn joined(option: &str, value: &OsStr) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(value);
    argument
}

/// Returns the text of Firefox's `user.js`.
pub(super) fn firefox_preferences(setup: &Setup<'_>) -> String {
    let (host, port) = setup.proxy.rsplit_once(':').unwrap_or((setup.proxy, "0"));
    let host = host.trim_matches(['[', ']']);
    let mut preferences = vec![
        ("browser.shell.checkDefaultBrowser", "false".to_owned()),
        ("browser.aboutwelcome.enabled", "false".to_owned()),
        (
            "datareporting.policy.dataSubmissionEnabled",
            "false".to_owned(),
        ),
        // DNS over HTTPS would ask a public resolver for far names.
        ("network.trr.mode", "5".to_owned()),
        ("media.peerconnection.ice.proxy_only", "true".to_owned()),
        ("network.proxy.no_proxies_on", "\"\"".to_owned()),
        (
            "network.proxy.allow_hijacking_localhost",
            setup.far_localhost.to_string(),
        ),
    ];
    match setup.traffic {
        Traffic::All => preferences.extend([
            ("network.proxy.type", "1".to_owned()),
            ("network.proxy.http", format!("\"{host}\"")),
            ("network.proxy.http_port", port.to_owned()),
            ("network.proxy.ssl", format!("\"{host}\"")),
            ("network.proxy.ssl_port", port.to_owned()),
        ]),
        Traffic::ByPac => preferences.extend([
            ("network.proxy.type", "2".to_owned()),
            (
                "network.proxy.autoconfig_url",
                format!("\"http://{}/proxy.pac\"", setup.proxy),
            ),
        ]),
    }
    preferences
        .iter()
        .map(|(name, value)| format!("user_pref(\"{name}\", {value});\n"))
        .collect()
}

/// Returns the URL to open: `http://` is added where there is no scheme.
///
/// # Errors
/// Why it is not a web page: such a URL could open a local file or start another program.
pub(super) fn checked_url(text: &str) -> Result<String, String> {
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("the URL has a space or a control character".to_owned());
    }
    if text.starts_with('-') {
        return Err(format!("`{text}` looks like an option, not like a URL"));
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return Ok(text.to_owned());
    }
    match text.split_once("://") {
        Some((scheme, _)) => Err(format!(
            "only http and https pages can be opened, not {scheme}://"
        )),
        // `HOST:PORT/PATH`, but not `javascript:…` and other schemes without slashes.
        None => match text.split_once(':') {
            Some((_, rest)) if !rest.starts_with(|c: char| c.is_ascii_digit()) => Err(format!(
                "`{text}` is not a web page; write it as http://HOST:PORT/PATH"
            )),
            _ => Ok(format!("http://{text}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(traffic: Traffic, far_localhost: bool) -> Setup<'static> {
        Setup {
            profile: Path::new("/p"),
            proxy: "127.0.0.1:8157",
            traffic,
            far_localhost,
            url: Some("http://master:8088/"),
        }
    }

    #[test]
    fn only_web_pages_are_opened() {
        for (text, url) in [
            ("http://a/b", "http://a/b"),
            ("HTTPS://a", "HTTPS://a"),
            ("master:8088/cluster", "http://master:8088/cluster"),
            ("master", "http://master"),
        ] {
            assert_eq!(checked_url(text).as_deref(), Ok(url));
        }
        for text in [
            "file:///etc/passwd",
            "javascript:alert(1)",
            "--no-sandbox",
            "chrome://settings",
            "a b",
            "a\nb",
            "data:text/html,x",
        ] {
            assert!(checked_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn chromium_gets_its_proxy_as_an_argument_and_keeps_its_sandbox() {
        let browser = Browser::at("/usr/bin/google-chrome-stable".into()).unwrap();
        let all = browser.arguments(&setup(Traffic::All, true));
        assert_eq!(all.first().unwrap(), "--user-data-dir=/p");
        let has = |text: &str| all.iter().any(|argument| argument == text);
        assert!(has("--proxy-server=http://127.0.0.1:8157"));
        assert!(has("--proxy-bypass-list=<-loopback>"));
        assert!(!has("--no-sandbox"));
        assert_eq!(all.last().unwrap(), "http://master:8088/");
        let pac = browser.arguments(&setup(Traffic::ByPac, false));
        let has = |text: &str| pac.iter().any(|argument| argument == text);
        assert!(has("--proxy-pac-url=http://127.0.0.1:8157/proxy.pac"));
        assert!(!has("--proxy-bypass-list=<-loopback>"));
    }

    #[test]
    fn firefox_gets_its_proxy_in_its_profile() {
        let browser = Browser::at("/usr/bin/firefox-esr".into()).unwrap();
        let arguments = browser.arguments(&setup(Traffic::All, true));
        assert_eq!(
            arguments,
            ["--no-remote", "--profile", "/p", "http://master:8088/"]
        );
        let preferences = firefox_preferences(&setup(Traffic::All, true));
        assert!(preferences.contains("user_pref(\"network.proxy.http_port\", 8157);"));
        assert!(
            preferences.contains("user_pref(\"network.proxy.allow_hijacking_localhost\", true);")
        );
        let preferences = firefox_preferences(&setup(Traffic::ByPac, false));
        assert!(preferences.contains("\"http://127.0.0.1:8157/proxy.pac\""));
    }

    #[test]
    fn other_programs_are_not_browsers() {
        assert_eq!(Browser::at("/usr/bin/xdg-open".into()), None);
        assert_eq!(Browser::find(None, Some(OsStr::new("/nonexistent"))), None);
    }
}
