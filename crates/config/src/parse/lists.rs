//! Keys whose values are lists (paths, algorithms), and conversions of parsed lists and numbers.

use tunneld_ssh::algorithm::Kind;

use crate::diagnostic::Spanned;
use crate::parse::algorithms;
use crate::parse::table::{Table, ValueError, string};
use crate::parse::tree::Value;
use crate::parse::values;

/// Reads a list of paths; the word "none" makes it empty.
pub(crate) fn paths(
    table: &mut Table<'_, '_>,
    key: &'static str,
) -> Option<Spanned<Vec<Spanned<String>>>> {
    let list = table.list_or_one(key, |node, in_list| {
        let text = string(node)?;
        // ssh_config allows several paths in one string for these keywords only; elsewhere, and as an item of a list, a
        // path may have spaces.
        let several = key.ends_with("known_hosts_file") || key == "revoked_host_keys";
        Ok(if several && !in_list {
            values::split_words(text)?
        } else {
            vec![text.to_owned()]
        })
    })?;
    let mut paths: Vec<Spanned<String>> = Vec::new();
    for item in list.value {
        paths.extend(item.value.into_iter().map(|value| Spanned {
            value,
            span: item.span,
        }));
    }
    if paths
        .iter()
        .any(|path| path.value.eq_ignore_ascii_case("none"))
    {
        paths.clear();
    }
    Some(Spanned {
        value: paths,
        span: list.span,
    })
}

/// Reads algorithms: one string with commas, or a list of names.
pub(crate) fn algorithms(
    table: &mut Table<'_, '_>,
    key: &'static str,
    kind: Kind,
) -> Option<Spanned<Vec<String>>> {
    table.value(key, |node| match &node.value {
        Value::Array(items) => {
            let names: Result<Vec<&str>, ValueError> = items.iter().map(string).collect();
            Ok(algorithms::list(kind, &names?.join(","))?)
        }
        _ => Ok(algorithms::list(kind, string(node)?)?),
    })
}

/// Makes one list of a list of lists; keeps the span of the whole.
pub(crate) fn flatten<T>(list: Spanned<Vec<Spanned<Vec<T>>>>) -> Spanned<Vec<T>> {
    Spanned {
        value: list.value.into_iter().flat_map(|item| item.value).collect(),
        span: list.span,
    }
}

/// Converts a number whose range was checked to a smaller type.
pub(crate) fn narrow<T: TryFrom<i64>>(number: Option<Spanned<i64>>) -> Option<Spanned<T>> {
    let number = number?;
    Some(Spanned {
        value: T::try_from(number.value).ok()?,
        span: number.span,
    })
}
