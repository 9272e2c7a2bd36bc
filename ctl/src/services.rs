//! Service names in forwards (`-L 8080:localhost:http`), which ssh(1) takes from the system's list (services(5)).

/// The system's list of services.
const SERVICES: &str = "/etc/services";

/// Returns the forward with port numbers for the names of services. Unix sockets, IPv6 addresses in brackets and unknown
/// names stay as they are: the daemon reports what it does not accept.
pub(crate) fn with_numbers(forward: &str) -> String {
    if forward.contains(['/', '[']) {
        return forward.to_owned();
    }
    let list = || std::fs::read_to_string(SERVICES).unwrap_or_default();
    replace(forward, list)
}

fn replace(forward: &str, list: impl FnOnce() -> String) -> String {
    let mut parts: Vec<String> = forward.split(':').map(str::to_owned).collect();
    // `[bind:]port` or `[bind:]port:host:hostport`.
    let ports = match parts.len() {
        1 => [0, 0],
        2 => [1, 1],
        3 => [0, 2],
        4 => [1, 3],
        _ => return forward.to_owned(),
    };
    let is_name = |part: &String| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if !ports.iter().any(|at| parts.get(*at).is_some_and(is_name)) {
        return forward.to_owned();
    }
    let list = list();
    for at in ports {
        if let Some(part) = parts.get_mut(at)
            && is_name(part)
            && let Some(port) = port_of(&list, part)
        {
            *part = port.to_string();
        }
    }
    parts.join(":")
}

/// Returns the TCP port of a service, which may be given by an alias.
fn port_of(list: &str, name: &str) -> Option<u16> {
    list.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let official = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        let is_it = official == name || words.any(|alias| alias == name);
        is_it.then(|| port.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_become_ports() {
        let list = "# all\nhttp\t80/tcp  www # web\npostgresql 5432/tcp postgres\ndomain 53/udp\n";
        for (forward, expected) in [
            ("8080:localhost:http", "8080:localhost:80"),
            (
                "127.0.0.1:www:localhost:postgres",
                "127.0.0.1:80:localhost:5432",
            ),
            ("8080:http:80", "8080:http:80"),
            ("8080:h:domain", "8080:h:domain"),
            ("8080:h:nosuch", "8080:h:nosuch"),
            ("http", "80"),
        ] {
            assert_eq!(replace(forward, || list.to_owned()), expected);
        }
        assert_eq!(with_numbers("/run/http"), "/run/http");
    }
}
