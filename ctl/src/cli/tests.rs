use super::*;

fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["tunnelctl"], args].concat())
}

#[test]
fn the_definition_is_valid() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn waits_use_the_time_grammar_of_ssh() {
    let wait = |args: &[&str]| match parse(args).unwrap().command {
        Command::Up(up) => up.wait.limit(),
        _ => unreachable!(),
    };
    assert_eq!(wait(&["up", "db"]), Some(Duration::from_secs(30)));
    assert_eq!(wait(&["up", "--wait", "db"]), Some(Duration::from_secs(30)));
    assert_eq!(
        wait(&["up", "--wait=1m30s", "db"]),
        Some(Duration::from_secs(90))
    );
    assert_eq!(wait(&["up", "--no-wait", "db"]), None);
    assert!(parse(&["up", "--wait=soon", "db"]).is_err());
}

#[test]
fn global_options_are_accepted_anywhere() {
    let cli = parse(&["status", "--output", "json", "--color=never", "-q"]).unwrap();
    assert_eq!(
        (cli.global.output, cli.global.color),
        (Output::Json, Color::Never)
    );
    assert_eq!(cli.global.quiet, 1);
    assert!(
        parse(&["--socket", "/s", "down", "--all"])
            .unwrap()
            .global
            .socket
            .is_some()
    );
}

#[test]
fn names_and_all_exclude_each_other() {
    assert_eq!(parse(&["down", "--all", "db"]).unwrap_err().exit_code(), 2);
    assert_eq!(parse(&["up", "--bogus"]).unwrap_err().exit_code(), 2);
}

#[test]
fn names_of_commands_in_other_programs_are_aliases() {
    assert!(matches!(
        parse(&["stop", "db"]).unwrap().command,
        Command::Down(_)
    ));
    assert!(matches!(
        parse(&["start", "db"]).unwrap().command,
        Command::Up(_)
    ));
    for name in ["list", "ls"] {
        assert!(matches!(
            parse(&[name]).unwrap().command,
            Command::Status(_)
        ));
    }
}

#[test]
fn targets_may_be_ipv6() {
    let target = |text| parse_target(text).map(|target| (target.host, target.port));
    assert_eq!(target("db.internal:5432"), Ok(("db.internal".into(), 5432)));
    assert_eq!(target("[::1]:22"), Ok(("::1".into(), 22)));
    assert_eq!(target("::1:22"), Ok(("::1".into(), 22)));
    for bad in ["db", "db:0", "db:70000", ":22", "[]:22", "db:ssh"] {
        assert!(target(bad).is_err(), "{bad}");
    }
}

#[test]
fn import_takes_a_format_with_a_file_or_a_command_line() {
    let import = |args: &[&str]| match parse(args).unwrap().command {
        Command::Import(import) => import,
        _ => unreachable!(),
    };
    let file = import(&["import", "foxyproxy", "f.json", "--write"]);
    assert_eq!(file.format, Some(ImportFormat::Foxyproxy));
    assert!(file.write && file.file.is_some());
    let line = import(&[
        "import", "--name", "x", "--", "autossh", "-M", "0", "--write", "h",
    ]);
    assert_eq!((line.command.len(), line.write), (5, false));
    for bad in [
        &["import"][..],
        &["import", "--"],
        &["import", "word", "f"],
        &["import", "unit", "f", "--", "ssh"],
    ] {
        assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
    }
}
