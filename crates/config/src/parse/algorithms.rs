//! ssh_config's lists of algorithms: `+`, `-` and `^` upon what the SSH core offers unless told otherwise.

use tunneld_ssh::algorithm::Kind;

use crate::diagnostic::did_you_mean;
use tunneld_ssh::pattern::{self, PatternMatch, match_list};

/// The list that `text` stands for: a list of its own, or `+`, `-`, `^` and a list upon the defaults.
///
/// # Errors
/// The name that nobody knows, or that nothing is left.
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
            let matching = expand(kind, name)?;
            named.extend(
                matching
                    .into_iter()
                    .filter(|name| !default_has(kind, sign, name)),
            );
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
        return Err(format!("\"{text}\" leaves no algorithm"));
    }
    let mut once: Vec<String> = Vec::with_capacity(list.len());
    for name in list {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    Ok(once)
}

fn default_has(kind: Kind, sign: &str, name: &str) -> bool {
    sign == "+" && kind.defaults().contains(&name)
}

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
    // Algorithm names are no keys: the did-you-mean of keys folds what differs here, which finds them all the same.
    let meant = did_you_mean(name, all()).map(|meant| format!("; did you mean \"{meant}\"?"));
    Err(format!(
        "no algorithm \"{name}\"{}",
        meant.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_work_upon_the_defaults() {
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
    fn unknown_names_and_empty_lists_are_told() {
        assert_eq!(
            list(Kind::Cipher, "aes128-ctrr"),
            Err("no algorithm \"aes128-ctrr\"; did you mean \"aes128-ctr\"?".into())
        );
        assert!(
            list(Kind::Cipher, "-*")
                .unwrap_err()
                .contains("leaves no algorithm")
        );
        assert!(list(Kind::Kex, "").is_err());
    }
}
