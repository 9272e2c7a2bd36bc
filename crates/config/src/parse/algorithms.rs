//! ssh_config's lists of algorithms: names, or `+`, `-`, `^` and names that change the SSH core's default list.

use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::pattern::{self, PatternMatch, match_list};

use crate::diagnostic::did_you_mean;

/// Resolves `text` to a list of algorithms, each once: names alone replace the default list, `+` appends to it, `-`
/// removes from it, `^` moves to its front. Names may have the wildcards `*` and `?`.
///
/// # Errors
/// An unknown name, or a list that is empty in the end.
pub fn list(kind: Kind, text: &str) -> Result<Vec<String>, String> {
    let (sign, names) = match text.split_at_checked(1) {
        Some((sign @ ("+" | "-" | "^"), names)) => (sign, names),
        _ => ("", text),
    };
    let default = || kind.defaults().iter().map(|name| (*name).to_owned());
    let list: Vec<String> = if sign == "-" {
        default()
            .filter(|name| match_list(name, names) != PatternMatch::Matched)
            .collect()
    } else {
        let mut named = Vec::new();
        for name in names.split(',').map(str::trim) {
            // What `+` names keeps its place in the default list.
            let added = |name: &String| sign != "+" || !kind.defaults().contains(&name.as_str());
            named.extend(expand(kind, name)?.into_iter().filter(added));
        }
        match sign {
            "+" => default().chain(named).collect(),
            "^" => {
                let rest: Vec<String> = default().filter(|name| !named.contains(name)).collect();
                named.into_iter().chain(rest).collect()
            }
            _ => named,
        }
    };
    if list.is_empty() {
        return Err(format!("\"{text}\" leaves no algorithm to offer"));
    }
    let mut once: Vec<String> = Vec::with_capacity(list.len());
    for name in list {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    Ok(once)
}

/// The known algorithms that a name or a pattern selects.
fn expand(kind: Kind, name: &str) -> Result<Vec<String>, String> {
    let all = || kind.known();
    if name.contains(['*', '?']) {
        return Ok(all()
            .filter(|known| pattern::match_pattern(known, name))
            .map(str::to_owned)
            .collect());
    }
    if all().any(|known| known == name) {
        return Ok(vec![name.to_owned()]);
    }
    let hint = did_you_mean(name, all()).map(|known| format!("; did you mean \"{known}\"?"));
    Err(format!(
        "unknown algorithm \"{name}\"{}",
        hint.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_change_the_default_list() {
        let of = |text| list(Kind::Cipher, text).unwrap();
        assert_eq!(of("aes256-ctr,aes128-ctr"), ["aes256-ctr", "aes128-ctr"]);
        assert_eq!(of("+aes128-cbc").last().unwrap(), "aes128-cbc");
        assert_eq!(of("+aes128-cbc").len(), Kind::Cipher.defaults().len() + 1);
        assert_eq!(of("+aes128-ctr"), Kind::Cipher.defaults());
        assert_eq!(of("^aes256-ctr")[0], "aes256-ctr");
        assert_eq!(of("^aes256-ctr").len(), Kind::Cipher.defaults().len());
        assert_eq!(
            of("-aes*ctr,chacha*"),
            ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]
        );
        assert_eq!(of("aes*-cbc"), ["aes128-cbc", "aes192-cbc", "aes256-cbc"]);
    }

    #[test]
    fn unknown_names_and_empty_lists_are_errors() {
        assert_eq!(
            list(Kind::Cipher, "aes128-ctrr"),
            Err("unknown algorithm \"aes128-ctrr\"; did you mean \"aes128-ctr\"?".into())
        );
        assert!(
            list(Kind::Cipher, "-*")
                .unwrap_err()
                .contains("leaves no algorithm")
        );
        assert!(list(Kind::Kex, "").is_err());
    }
}
