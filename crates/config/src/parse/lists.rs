//! Keys that hold lists: paths, algorithms; and what makes one of many.

use tunneld_ssh::algorithm::Kind;

use crate::diagnostic::At;
use crate::parse::algorithms;
use crate::parse::table::{Table, ValueError, string};
use crate::parse::tree::Value;
use crate::parse::values;

pub(crate) fn paths(table: &mut Table<'_, '_>, key: &'static str) -> Option<At<Vec<At<String>>>> {
    let list = table.list(key, |node| {
        let text = string(node)?;
        // A list holds one path an item; ssh_config's string of several is for these keywords alone.
        let several = key.ends_with("known_hosts_file") || key == "revoked_host_keys";
        Ok(if several {
            values::words(text)?
        } else {
            vec![text.to_owned()]
        })
    })?;
    let mut paths: Vec<At<String>> = Vec::new();
    for item in list.value {
        paths.extend(
            item.value
                .into_iter()
                .map(|value| At { value, at: item.at }),
        );
    }
    if paths
        .iter()
        .any(|path| path.value.eq_ignore_ascii_case("none"))
    {
        paths.clear();
    }
    Some(At {
        value: paths,
        at: list.at,
    })
}

pub(crate) fn algorithms(
    table: &mut Table<'_, '_>,
    key: &'static str,
    kind: Kind,
) -> Option<At<Vec<String>>> {
    table.proved(key, |node| match &node.value {
        Value::Array(items) => {
            let names: Result<Vec<&str>, ValueError> = items.iter().map(string).collect();
            Ok(algorithms::list(kind, &names?.join(","))?)
        }
        _ => Ok(algorithms::list(kind, string(node)?)?),
    })
}

pub(crate) fn flat<T>(list: At<Vec<At<Vec<T>>>>) -> At<Vec<T>> {
    At {
        value: list.value.into_iter().flat_map(|item| item.value).collect(),
        at: list.at,
    }
}

pub(crate) fn narrow<T: TryFrom<i64>>(number: Option<At<i64>>) -> Option<At<T>> {
    let number = number?;
    Some(At {
        value: T::try_from(number.value).ok()?,
        at: number.at,
    })
}
