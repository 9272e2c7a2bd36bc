use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::*;

#[test]
fn a_new_tunnel_gets_its_own_file() {
    let home = tempfile::TempDir::new().unwrap();
    let dir = home.path().join("a/tunneld");
    let saved = save(
        &dir,
        "db",
        &json!({"host": "h", "local_forward": ["1 a:1", "2 b:2"]}),
    )
    .unwrap();
    let path = saved.path.clone();
    assert_eq!(path, dir.join("db.toml"));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        "[tunnel.db]\nhost = \"h\"\nlocal_forward = [\"1 a:1\", \"2 b:2\"]\n"
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    saved.undo().unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn the_file_that_defines_it_keeps_its_comments_mode_and_link() {
    let dir = tempfile::TempDir::new().unwrap();
    let real = dir.path().join("real");
    let text = "# mine\n[tunnel.a]\nport = 1 # old\n\n[tunnel.db] # the db\n# its host\nhost = \"old\" # why\nproxy_command = \"x\"\nhold = 5\n";
    fs::write(&real, text).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&real, dir.path().join("work.toml")).unwrap();
    let saved = save(dir.path(), "db", &json!({"host": "new", "proxy_jump": "j"})).unwrap();
    let path = saved.path.clone();
    assert_eq!(path, dir.path().join("work.toml"));
    assert!(path.is_symlink());
    assert_eq!(
        fs::read_to_string(&real).unwrap(),
        "# mine\n[tunnel.a]\nport = 1 # old\n\n[tunnel.db] # the db\n# its host\nhost = \"new\" # why\nhold = 5\nproxy_jump = \"j\"\n"
    );
    assert_eq!(
        fs::metadata(&real).unwrap().permissions().mode() & 0o777,
        0o640
    );
    saved.undo().unwrap();
    assert_eq!(fs::read_to_string(&real).unwrap(), text);
    assert!(path.is_symlink());
}

#[test]
fn a_file_that_is_not_toml_is_not_changed() {
    let dir = tempfile::TempDir::new().unwrap();
    fs::write(dir.path().join("db.toml"), "[tunnel.db\n").unwrap();
    let fault = save(dir.path(), "db", &json!({"host": "h"})).unwrap_err();
    assert!(fault.message.contains("is not valid TOML"), "{fault:?}");
    assert_eq!(
        fs::read_to_string(dir.path().join("db.toml")).unwrap(),
        "[tunnel.db\n"
    );
    assert!(save(dir.path(), "../x", &json!({})).is_err());
}

fn keys(json: Json) -> serde_json::Map<String, Json> {
    match json {
        Json::Object(keys) => keys,
        other => panic!("{other} is no object"),
    }
}

#[test]
fn a_block_becomes_a_file_or_the_end_of_one_with_its_comments() {
    let dir = tempfile::TempDir::new().unwrap();
    let block = "# where it is from\n[tunnel.db]\nhost = \"h\"\n# user = \"u\"\n";
    let given = keys(json!({"host": "h"}));
    let saved = save_block(dir.path(), "db", &given, &[], block).unwrap();
    assert_eq!(fs::read_to_string(&saved.path).unwrap(), block);
    fs::write(&saved.path, "# mine\n[tunnel.other]").unwrap();
    save_block(dir.path(), "db", &given, &[], block).unwrap();
    assert_eq!(
        fs::read_to_string(&saved.path).unwrap(),
        format!("# mine\n[tunnel.other]\n\n{block}")
    );
}

#[test]
fn a_block_for_a_tunnel_that_exists_sets_keys_and_adds_comments_once() {
    let dir = tempfile::TempDir::new().unwrap();
    let text =
        "# mine\n[tunnel.db] # the db\nhost = \"h\" # why\nproxy_for = [\"a\"]\n\n[tunnel.z]\n";
    let path = dir.path().join("work.toml");
    fs::write(&path, text).unwrap();
    let given = keys(json!({"proxy_for": ["a", "b"], "port": 2}));
    let block = "# a note\n[tunnel.db]\n# host = \"user@server\"\nproxy_for = [\"a\", \"b\"]\n";
    for _ in 0..2 {
        save_block(dir.path(), "db", &given, &["proxy_for"], block).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# mine\n# a note\n[tunnel.db] # the db\nhost = \"h\" # why\nproxy_for = [\"a\", \"b\"]\nport = 2\n\n[tunnel.z]\n"
        );
    }
}

#[test]
fn a_block_that_does_not_fit_the_file_changes_nothing() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("db.toml");
    let text = "tunnel = { a = { port = 1 } }\n";
    fs::write(&path, text).unwrap();
    let block = "[tunnel.db]\nhost = \"h\"\n";
    let given = keys(json!({"host": "h"}));
    let error = save_block(dir.path(), "db", &given, &[], block).unwrap_err();
    assert!(error.message.contains("cannot hold"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}
