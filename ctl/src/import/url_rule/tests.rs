use super::*;

fn url(glob: &str) -> Result<Translation, String> {
    UrlRule::wildcard(glob, Subject::Url, glob, false)?.translate()
}

fn patterns(rule: Result<UrlRule, String>) -> Result<String, String> {
    Ok(rule?.translate()?.patterns.join(","))
}

#[test]
fn wildcards_of_urls_become_hosts() {
    for (glob, pattern) in [
        ("*ec2*.amazonaws.com*", "*ec2*.amazonaws.com"),
        ("*ec2*.compute*", "*ec2*.compute*"),
        ("http://10.*", "10.0.0.0/8"),
        ("*10*.amazonaws.com*", "*10*.amazonaws.com"),
        ("*10*.compute*", "*10*.compute*"),
        ("*.compute.internal*", "*.compute.internal"),
        ("*.ec2.internal*", "*.ec2.internal"),
        ("*://*.example.com/*", "*.example.com"),
        ("http*://www.example.com/*", "www.example.com"),
        ("*://192.168.*/*", "192.168.0.0/16"),
        ("https://10.1.2.*/*", "10.1.2.0/24"),
        ("*://host.example:8088/*", "host.example:8088"),
        ("*", "*"),
    ] {
        let translation = url(glob);
        assert_eq!(
            translation.map(|t| t.patterns),
            Ok(vec![pattern.to_owned()]),
            "{glob}"
        );
    }
}

#[test]
fn a_rule_that_depends_on_the_path_or_means_nothing_is_not_carried_over() {
    for (glob, part) in [
        ("*://example.com/admin/*", "would not be treated"),
        ("http://example.com", "would not be treated"),
        ("*.example.com", "would not be treated"),
        ("10.*", "would not be treated"),
        ("ftp://example.com/*", "it is for ftp"),
        ("*://example.com:x/*", "not a number"),
        ("*://bücher.example/*", "xn--"),
        ("*://a b/*", "` `"),
        ("", "host"),
        (&"x".repeat(1500), "longer"),
        (&"*a".repeat(20), "wildcards"),
    ] {
        let reason = url(glob).unwrap_err();
        assert!(reason.contains(part), "{glob}: {reason}");
    }
}

#[test]
fn a_network_and_a_scheme_are_noted() {
    let notes = url("http://10.*").unwrap().notes;
    assert_eq!(
        notes,
        [
            "http://10.* was for http alone: 10.0.0.0/8 is for https too",
            "http://10.* became the network 10.0.0.0/8: names such as 10.name no longer match"
        ]
    );
}

#[test]
fn hosts_domains_and_expressions() {
    let host = |glob: &str| UrlRule::wildcard(glob, Subject::Host, glob, false);
    let expression = |text: &str| UrlRule::regex(text, Subject::Url, text, false);
    assert_eq!(
        patterns(host("*.corp.example")).as_deref(),
        Ok("*.corp.example")
    );
    assert_eq!(patterns(host("10.*")).as_deref(), Ok("10.0.0.0/8"));
    assert_eq!(
        patterns(UrlRule::domain("", "a.example")).as_deref(),
        Ok("a.example,*.a.example")
    );
    assert_eq!(
        patterns(expression("^https?://(.*\\.)?a\\.example/")).as_deref(),
        Ok("a.example,*.a.example")
    );
    // One label only, which a `*` of proxy_for cannot say.
    assert!(patterns(expression("^https?://[^/.]+\\.a\\.example/")).is_err());
    assert!(patterns(expression("(")).is_err());
}

#[test]
fn every_translation_is_tried_with_twenty_urls_of_both_schemes() {
    for glob in ["*.compute.internal*", "*://10.*/*", "*://x.example:8080/*"] {
        let samples = Target::of(glob, Subject::Url).unwrap().samples();
        assert!(samples.len() >= 20, "{glob}");
        let urls: std::collections::BTreeSet<String> = samples.iter().map(Sample::url).collect();
        assert!(urls.len() >= 15, "{glob}: {urls:?}");
        assert!(urls.iter().any(|url| url.starts_with("https:")), "{glob}");
        assert!(urls.iter().any(|url| url.starts_with("http:")), "{glob}");
    }
}
