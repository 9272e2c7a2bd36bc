//! Finds the hosts of an ssh_config that have forwards. Their settings are not copied: tunneld reads them from the file
//! itself, through `ssh -G`.

use super::url_rule::glob_matches;
use super::{Import, ImportedTunnel, valid_name};
use crate::exit::Exit;

/// How deep files may include each other, as in ssh (readconf.c).
const MAX_DEPTH: usize = 16;

/// The most names, and the most groups of forwards, that are compared with each other.
const MAX_HOSTS: usize = 1024;

/// The most patterns that all groups of forwards have together.
const MAX_PATTERNS: usize = 50_000;

/// Keywords whose values are programs that ssh, or tunneld in its place, runs.
const PROGRAMS: &[&str] = &["proxycommand", "knownhostscommand", "localcommand"];

/// Returns the texts of the files that an `Include` pattern names.
pub(crate) type Include<'a> = dyn FnMut(&str) -> Vec<String> + 'a;

/// When the lines of a block count.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Host(Vec<String>),
    /// `Match`, whose result only ssh knows.
    Match,
}

impl Condition {
    fn size(&self) -> usize {
        match self {
            Self::Host(patterns) => patterns.len(),
            Self::Match => 1,
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    // Names without wildcards, in the order of the file.
    names: Vec<String>,
    // The conditions of each group of forwards; all of them must hold.
    forwards: Vec<Vec<Condition>>,
    // The number of patterns in `forwards`.
    patterns: usize,
    runs_programs: bool,
}

impl Found {
    fn add_names(&mut self, patterns: &[String]) {
        for name in patterns
            .iter()
            .filter(|name| !name.contains(['*', '?', '!']))
        {
            // One more than allowed is enough to refuse the file.
            if self.names.len() <= MAX_HOSTS && !self.names.contains(name) {
                self.names.push(name.clone());
            }
        }
    }

    fn add_forwards(&mut self, conditions: &[Condition]) {
        if self.forwards.last().map(Vec::as_slice) != Some(conditions) {
            self.forwards.push(conditions.to_vec());
            self.patterns += conditions.iter().map(Condition::size).sum::<usize>();
        }
    }

    fn check_size(&self) -> Result<(), Exit> {
        let hosts = self.names.len().max(self.forwards.len());
        if hosts <= MAX_HOSTS && self.patterns <= MAX_PATTERNS {
            return Ok(());
        }
        Err(
            Exit::usage(format!("the file has more than {MAX_HOSTS} hosts"))
                .hint("put the hosts that have forwards into a file of their own"),
        )
    }
}

/// Reads an ssh_config. `path` is written as the key `ssh_config`; `None` for the user's own file, which is read anyway.
///
/// # Errors
/// The file has too many hosts, or files that include each other too deeply.
pub(crate) fn read(
    text: &str,
    path: Option<&str>,
    include: &mut Include<'_>,
) -> Result<Import, Exit> {
    let mut found = Found::default();
    scan(text, include, &[], 0, &mut found)?;
    let mut import = Import::default();
    if found
        .forwards
        .iter()
        .any(|all| all.contains(&Condition::Match))
    {
        import.note("forwards in Match blocks are not listed: only ssh knows when they apply");
    }
    for name in &found.names {
        let has = found
            .forwards
            .iter()
            .any(|all| all.iter().all(|condition| holds(condition, name)));
        if has {
            import.push(tunnel(name, path, found.runs_programs));
        }
    }
    Ok(import)
}

fn tunnel(name: &str, path: Option<&str>, runs_programs: bool) -> ImportedTunnel {
    let mut tunnel = ImportedTunnel::new(name);
    if valid_name(name) != name {
        tunnel.set("host", name);
    }
    match path {
        None => {}
        Some(path) if runs_programs => {
            tunnel.note("the file runs programs (ProxyCommand, Match exec): remove this # after you have read it");
            tunnel.disable("ssh_config", path);
            tunnel.incomplete = Some("read the file and use ssh_config");
        }
        Some(path) => tunnel.set("ssh_config", path),
    }
    tunnel
}

fn scan(
    text: &str,
    include: &mut Include<'_>,
    outer: &[Condition],
    depth: usize,
    found: &mut Found,
) -> Result<(), Exit> {
    if depth > MAX_DEPTH {
        return Err(Exit::usage(format!(
            "the files include each other more than {MAX_DEPTH} times"
        ))
        .hint("look for an Include that names its own file"));
    }
    let mut current = outer.to_vec();
    for line in text.lines() {
        let Some((keyword, value)) = keyword(line) else {
            continue;
        };
        match keyword.as_str() {
            "host" => {
                let patterns = words(value);
                found.add_names(&patterns);
                current = [outer, &[Condition::Host(patterns)]].concat();
            }
            "match" => {
                found.runs_programs |= value.to_ascii_lowercase().contains("exec");
                let all = value.trim().eq_ignore_ascii_case("all");
                let condition = if all {
                    Condition::Host(vec!["*".to_owned()])
                } else {
                    Condition::Match
                };
                current = [outer, &[condition]].concat();
            }
            "localforward" | "remoteforward" | "dynamicforward" => found.add_forwards(&current),
            "include" => {
                for pattern in words(value) {
                    for text in include(&pattern) {
                        scan(&text, include, &current, depth + 1, found)?;
                    }
                }
            }
            keyword => {
                found.runs_programs |=
                    PROGRAMS.contains(&keyword) && !value.eq_ignore_ascii_case("none")
            }
        }
        found.check_size()?;
    }
    Ok(())
}

/// The keyword in lower case and its value; `None` for an empty line or a comment.
fn keyword(line: &str) -> Option<(String, &str)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let (keyword, value) = line.split_at(end);
    let value = value.trim_start();
    let value = value.strip_prefix('=').unwrap_or(value);
    Some((keyword.to_ascii_lowercase(), value.trim()))
}

/// Words separated by blanks; a word in quotes may have blanks.
fn words(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in value.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(
                part.split_whitespace()
                    .take_while(|word| !word.starts_with('#'))
                    .map(str::to_owned),
            );
        }
    }
    words
}

fn holds(condition: &Condition, name: &str) -> bool {
    let Condition::Host(patterns) = condition else {
        return false;
    };
    let matches = |pattern: &str| glob_matches(pattern.as_bytes(), name.as_bytes());
    let refused = patterns
        .iter()
        .filter_map(|pattern| pattern.strip_prefix('!'))
        .any(matches);
    !refused && patterns.iter().any(|pattern| matches(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let import = read(text, None, &mut |_| Vec::new()).unwrap();
        import
            .tunnels
            .into_iter()
            .map(|tunnel| tunnel.name)
            .collect()
    }

    #[test]
    fn only_hosts_with_forwards_are_listed() {
        let text = "Host mahuika\n  LocalForward 6676 mahuika:6676\nHost plain\n  User x\n\
                    Host=\"quoted\" two # no\n  DynamicForward=1080\nHost *.far !x.far\n RemoteForward 1 a:2\n\
                    Host a.far x.far\nMatch all\n  User y\n";
        assert_eq!(names(text), ["mahuika", "quoted", "two", "a.far"]);
        assert_eq!(names("DynamicForward 1\nHost a b\n"), ["a", "b"]);
        assert!(names("Match host a\nDynamicForward 1\nHost a\n").is_empty());
        assert!(names("").is_empty());
    }

    #[test]
    fn included_files_count_within_their_block() {
        let mut include = |pattern: &str| match pattern {
            "conf.d/*" => vec![
                "Host inner\nLocalForward 1 a:1\n".to_owned(),
                "Host *\nDynamicForward 1\n".to_owned(),
            ],
            _ => Vec::new(),
        };
        let text = "Include conf.d/*\nHost last\n";
        let import = read(text, Some("/etc/x"), &mut include).unwrap();
        assert_eq!(import.tunnels.len(), 2);
        assert_eq!(import.tunnels[1].keys["ssh_config"], "/etc/x");
        let import = read(
            "Host other\nInclude conf.d/*\nHost last\n",
            None,
            &mut include,
        )
        .unwrap();
        let listed: Vec<_> = import
            .tunnels
            .iter()
            .map(|tunnel| tunnel.name.as_str())
            .collect();
        assert_eq!(listed, ["other"]);
    }

    #[test]
    fn a_foreign_file_that_runs_programs_is_not_used_unseen() {
        for line in [
            "ProxyCommand nc %h %p",
            "Match exec true",
            "KnownHostsCommand x",
        ] {
            let text = format!("Host a\nDynamicForward 1\n{line}\n");
            let tunnel = read(&text, Some("/tmp/c"), &mut |_| Vec::new())
                .unwrap()
                .tunnels
                .remove(0);
            assert!(
                tunnel.keys.is_empty() && tunnel.disabled.contains_key("ssh_config"),
                "{line}"
            );
        }
    }

    #[test]
    fn circles_and_floods_are_one_error() {
        let mut circle = |_: &str| vec!["Include x".to_owned()];
        assert!(read("Include x", None, &mut circle).is_err());
        let many: String = (0..2000)
            .map(|number| format!("Host h{number}\n"))
            .collect();
        assert!(read(&many, None, &mut |_| Vec::new()).is_err());
        let wide = format!("Host {}\n", many.replace("Host ", "").replace('\n', " "));
        assert!(read(&wide, None, &mut |_| Vec::new()).is_err());
        let groups = format!(
            "Host {}\nDynamicForward 1\nInclude x\n",
            "a ".repeat(60_000)
        );
        assert!(read(&groups, None, &mut |_| Vec::new()).is_err());
    }
}
