//! The pages that the proxy answers with. A browser gets HTML, other clients one line of text. No scripts, nothing from
//! other servers, and every text from elsewhere is escaped.

use hyper::header::{ACCEPT, HeaderMap};
use tunneld_proto::text::escape_line;

/// The style of every page. Both colour schemes of the browser are readable.
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:42em;margin:3em auto;padding:0 1em;color-scheme:light dark}\
h1{font-size:1.3em}dt{font-weight:600}dd{margin:0 0 .6em 0}code{font-family:ui-monospace,monospace}";

/// Allows the page its own style and nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How often a browser asks again while the tunnel is away, in seconds.
const RELOAD_SECONDS: u32 = 3;

/// What a user is told about a request that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// The tunnel's name.
    pub tunnel: String,
    /// One sentence that says what failed.
    pub title: String,
    /// Further facts, in this order: what they are and their value. Both are escaped.
    pub facts: Vec<(&'static str, String)>,
    /// Whether time may help: the page then loads itself again until it does.
    pub reload: bool,
}

impl Failure {
    /// Returns one line of text, for clients that are not browsers.
    pub fn to_text(&self) -> String {
        let mut line = format!(
            "tunneld: tunnel {}: {}",
            escape_line(&self.tunnel),
            escape_line(&self.title)
        );
        for (name, value) in &self.facts {
            line.push_str(&format!(
                " {name}: {}.",
                escape_line(value).trim_end_matches('.')
            ));
        }
        line.push('\n');
        line
    }

    /// Returns a complete HTML page.
    pub fn to_html(&self) -> String {
        let mut facts = String::new();
        for (name, value) in &self.facts {
            facts.push_str(&format!("<dt>{name}</dt><dd>{}</dd>", escape_html(value)));
        }
        let refresh = if self.reload {
            format!("<meta http-equiv=\"refresh\" content=\"{RELOAD_SECONDS}\">")
        } else {
            String::new()
        };
        let note = if self.reload {
            "<p>This page loads itself again until the tunnel is up.</p>"
        } else {
            ""
        };
        document(
            &format!("{} – tunneld", self.tunnel),
            &refresh,
            &format!(
                "<h1>{}</h1><dl><dt>tunnel</dt><dd>{}</dd>{facts}</dl>{note}",
                escape_html(&self.title),
                escape_html(&self.tunnel)
            ),
        )
    }
}

/// Returns whether the client prefers a page to a line of text: it is a browser.
pub fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|accept| {
        accept
            .as_bytes()
            .windows(9)
            .any(|part| part == b"text/html")
    })
}

/// Returns the page at `/`: what this port is and how to use it. `address` is `HOST:PORT` as the browser asked for it.
pub fn start(tunnel: &str, state: &str, address: &str) -> String {
    let (tunnel_text, address) = (escape_html(tunnel), escape_html(address));
    document(
        &format!("{tunnel} – tunneld"),
        "",
        &format!(
            "<h1>A proxy into the network behind the tunnel {tunnel_text}</h1>\
             <p>The tunnel is <strong>{}</strong>. This port speaks HTTP, SOCKS5 and SOCKS4a.</p>\
             <dl><dt>A browser with its own profile</dt><dd><code>tunnelctl browse {tunnel_text}</code></dd>\
             <dt>Programs</dt><dd><code>http_proxy=http://{address} https_proxy=http://{address}</code></dd>\
             <dt>Proxy auto-configuration</dt><dd><a href=\"/proxy.pac\">http://{address}/proxy.pac</a></dd></dl>",
            escape_html(state)
        ),
    )
}

/// `title` is escaped here, `head` and `body` are HTML.
fn document(title: &str, head: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">{head}\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head>\
         <body>{body}</body></html>\n",
        escape_html(title)
    )
}

/// Escapes text for HTML content and quoted attributes. Control characters are shown, not sent.
fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in escape_line(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure {
            tunnel: "<b>\"t\"".to_owned(),
            title: "The tunnel is not connected.".to_owned(),
            facts: vec![("reason", "<script>alert(1)</script>\x1b[2J\nx".to_owned())],
            reload: true,
        }
    }

    #[test]
    fn text_from_elsewhere_cannot_become_markup() {
        let page = failure().to_html();
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(!page.contains('\x1b'));
        assert!(!start("<b>", "<i>", "h:1\"").contains("<b>"));
    }

    #[test]
    fn a_page_reloads_only_if_time_may_help() {
        let mut failure = failure();
        assert!(failure.to_html().contains("http-equiv=\"refresh\""));
        failure.reload = false;
        assert!(!failure.to_html().contains("http-equiv=\"refresh\""));
    }

    #[test]
    fn the_text_is_one_line_without_control_characters() {
        let text = failure().to_text();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.ends_with('\n') && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn only_browsers_get_html() {
        let accept = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, value.parse().unwrap());
            wants_html(&headers)
        };
        assert!(accept("text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(!accept("*/*"));
        assert!(!wants_html(&HeaderMap::new()));
    }
}
