//! The page as one file, and the policy that lets a browser run this script and this style and nothing else.

use std::sync::LazyLock;

use base64ct::{Base64, Encoding as _};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page with its style and script inside.
pub(super) static PAGE: LazyLock<String> = LazyLock::new(|| {
    TEMPLATE
        .replace("/*STYLE*/", STYLE)
        .replace("/*SCRIPT*/", SCRIPT)
});

/// Its Content-Security-Policy: only what has these hashes, and requests to this server.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash(SCRIPT),
        hash(STYLE)
    )
});

/// The hash of an inline element (Content Security Policy Level 3, §6.7.2.2).
fn hash(content: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.as_bytes());
    format!("sha256-{}", Base64::encode_string(digest.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_has_no_resource_of_another_server() {
        assert!(PAGE.len() <= 100 * 1024, "{} bytes", PAGE.len());
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        assert!(PAGE.contains(STYLE) && PAGE.contains(SCRIPT));
    }

    #[test]
    fn the_script_writes_text_only_and_evaluates_none() {
        for unsafe_use in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "setAttribute('on",
            "cookie",
        ] {
            assert!(!SCRIPT.contains(unsafe_use), "{unsafe_use}");
        }
    }
}
