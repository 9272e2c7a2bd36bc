//! Splits a line into words as a shell does, without running anything: what the shell would expand is refused.

/// Splits a command line.
///
/// # Errors
/// A quote is not closed, or the line needs a shell (pipes, several commands, substitution).
pub(super) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a quote is not closed".to_owned()),
                    }
                }
            }
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => match chars.next() {
                // A line break behind a backslash continues the line.
                Some('\n') | None => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            c if c.is_whitespace() => words.extend(word.take()),
            '#' if word.is_none() => break,
            '`' | '|' | ';' | '&' | '<' | '>' | '(' | ')' => {
                return Err(format!("`{c}` needs a shell"));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    loop {
        match chars.next() {
            Some('"') => return Ok(()),
            Some('`') => return Err("`` ` `` needs a shell".to_owned()),
            Some('\\') => match chars.next() {
                Some('\n') => {}
                Some(c) if "\"\\$`".contains(c) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => return Err("a quote is not closed".to_owned()),
            },
            Some(c) => word.push(c),
            None => return Err("a quote is not closed".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_and_what_needs_a_shell_is_refused() {
        for (line, expected) in [
            ("ssh -L 1:a:2  h", Ok("ssh|-L|1:a:2|h")),
            (
                "a 'b c' \"d \\\" $e\" f\\ g '' # no",
                Ok("a|b c|d \" $e|f g|"),
            ),
            ("a \\\n b", Ok("a|b")),
            ("", Ok("")),
            ("a 'b", Err("a quote is not closed")),
            ("a \"b", Err("a quote is not closed")),
            ("a; rm", Err("`;` needs a shell")),
            ("a | b", Err("`|` needs a shell")),
            ("a $(b)", Err("`(` needs a shell")),
        ] {
            let words = split(line).map(|words| words.join("|"));
            assert_eq!(words.as_deref().map_err(String::as_str), expected, "{line}");
        }
    }
}
