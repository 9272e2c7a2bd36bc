//! `tunnelctl import`: reads what another program saved, and prints it as TOML or adds it to the configuration.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use tunneld_proto::paths::config_dir;
use tunneld_toml::save::{ADDED_KEYS, Saved, save_block};

use crate::cli::{ImportArgs, ImportFormat};
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};
use crate::import::decode::{Fallback, decode};
use crate::import::{
    Import, command_line, foxyproxy, launchd, mobaxterm, putty, source, ssh_config, switchyomega,
    toml_text, unit, valid_name,
};

/// The most files that an Include or a folder of sessions may bring.
const MAX_FILES: usize = 1000;

/// Reads the file or the command line, and prints or writes the tunnels.
pub(crate) fn run(context: &Context, args: &ImportArgs) -> Result<(), Exit> {
    let mut import = match args.format {
        Some(format) => read_file(context, format, args.file.as_deref())?,
        None => {
            let cwd = std::env::current_dir().ok();
            command_line::read(&args.command, cwd.as_deref())?
        }
    };
    if let Some(name) = &args.name {
        rename(&mut import, name)?;
    }
    if args.write && !import.tunnels.is_empty() {
        return write(context, &import);
    }
    std::io::stdout()
        .lock()
        .write_all(toml_text::render(&import).as_bytes())?;
    if import.tunnels.is_empty() {
        return Err(Exit::new(FAILED, "nothing to import: no tunnel was found").hint(hint_of(args)));
    }
    Ok(())
}

fn hint_of(args: &ImportArgs) -> &'static str {
    match args.format {
        Some(ImportFormat::SshConfig) => {
            "only hosts with LocalForward, RemoteForward or DynamicForward are listed"
        }
        Some(ImportFormat::Putty) => "only SSH sessions with forwards are listed",
        _ => "the comments above say what was left out and why",
    }
}

fn rename(import: &mut Import, name: &str) -> Result<(), Exit> {
    if valid_name(name) != name {
        return Err(Exit::usage(format!("{name:?} is not a valid tunnel name"))
            .hint("1 to 64 characters of A-Z a-z 0-9 . _ - that do not start with -"));
    }
    match import.tunnels.as_mut_slice() {
        [] => Ok(()),
        [tunnel] => {
            name.clone_into(&mut tunnel.name);
            Ok(())
        }
        several => Err(Exit::usage(format!(
            "--name is for one tunnel, but there are {}",
            several.len()
        ))
        .hint("leave it out, save the output to a file, and edit the names there")),
    }
}

/// Adds each tunnel to the configuration, all or none of them.
fn write(context: &Context, import: &Import) -> Result<(), Exit> {
    let dir = config_dir(context.global.config_dir.as_deref(), &context.env)?;
    let added = [&ADDED_KEYS[..], &["proxy_for"]].concat();
    let mut done: Vec<(String, Saved)> = Vec::new();
    for tunnel in &import.tunnels {
        let block = toml_text::block(tunnel);
        match save_block(&dir, &tunnel.name, &tunnel.keys, &added, &block) {
            Ok(saved) => done.push((tunnel.name.clone(), saved)),
            Err(error) => {
                // The last first: several tunnels may be in one file.
                for (_, saved) in done.into_iter().rev() {
                    let path = saved.path.clone();
                    if let Err(error) = saved.undo() {
                        context
                            .ui
                            .warn(&format!("{} was not restored: {error}", path.display()).into());
                    }
                }
                return Err(Exit::usage(format!(
                    "tunnel {}: {error}; nothing was changed",
                    tunnel.name
                ))
                .hint(error.help));
            }
        }
    }
    for note in &import.notes {
        context.ui.info(note);
    }
    for (tunnel, (name, saved)) in import.tunnels.iter().zip(&done) {
        context
            .ui
            .info(format!("added tunnel {name} to {}", saved.path.display()));
        let open = tunnel.notes.len();
        if open > 0 {
            context.ui.info(format!(
                "read the {open} lines of comments above [tunnel.{name}]"
            ));
        }
    }
    Ok(())
}

fn read_file(context: &Context, format: ImportFormat, file: Option<&Path>) -> Result<Import, Exit> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => default_file(context, format)?,
    };
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let text = |fallback| decode(&source::read(&path)?, fallback);
    match format {
        ImportFormat::SshConfig => read_ssh_config(context, &path, &text(Fallback::Refuse)?),
        ImportFormat::Putty if path.is_dir() => read_sessions(&path),
        ImportFormat::Putty => {
            let text = text(Fallback::Windows1252)?;
            if text.contains("[HKEY_") {
                return putty::read_registry(&text);
            }
            let mut import = Import::default();
            putty::read_session(&mut import, &name, &text)?;
            Ok(import)
        }
        ImportFormat::Mobaxterm => mobaxterm::read(&text(Fallback::Windows1252)?),
        ImportFormat::Foxyproxy => foxyproxy::read(&text(Fallback::Refuse)?),
        ImportFormat::Switchyomega => switchyomega::read(&text(Fallback::Refuse)?),
        ImportFormat::Unit => unit::read(&text(Fallback::Refuse)?, &name),
        ImportFormat::Launchd => launchd::read(&text(Fallback::Refuse)?),
    }
}

/// The file that the program itself uses, where there is only one.
fn default_file(context: &Context, format: ImportFormat) -> Result<PathBuf, Exit> {
    match format {
        ImportFormat::SshConfig => Ok(context.env.home()?.join(".ssh/config")),
        ImportFormat::Putty if cfg!(unix) => Ok(context.env.home()?.join(".putty/sessions")),
        _ => {
            Err(Exit::usage("the file to import is missing")
                .hint("write tunnelctl import FORMAT FILE"))
        }
    }
}

/// Reads every session of a folder; those that cannot be read are named.
fn read_sessions(dir: &Path) -> Result<Import, Exit> {
    let mut import = Import::default();
    for path in files_of(dir)? {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let text = source::read(&path).and_then(|bytes| decode(&bytes, Fallback::Windows1252));
        if let Err(exit) = text.and_then(|text| putty::read_session(&mut import, &name, &text)) {
            import.note(format!("left out: {}", exit.message.unwrap_or(name)));
        }
    }
    Ok(import)
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>, Exit> {
    let entries = std::fs::read_dir(dir).map_err(|err| {
        Exit::usage(format!("reading {} failed", dir.display()))
            .caused_by(&err)
            .hint("check the path and its mode")
    })?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .take(MAX_FILES)
        .collect();
    paths.sort();
    Ok(paths)
}

fn read_ssh_config(context: &Context, path: &Path, text: &str) -> Result<Import, Exit> {
    let own = context.env.home()?.join(".ssh");
    // ssh looks there for relative names, wherever the including file is (ssh_config(5)).
    // Files that include each other twice would double the text at each level.
    let mut left = (MAX_FILES, source::MAX_SIZE);
    let mut include = |pattern: &str| included(&own, pattern, &mut left);
    let absolute = if path == Path::new("-") {
        None
    } else {
        Some(context.env.absolute(path)?)
    };
    let is_own = absolute
        .as_ref()
        .is_none_or(|path| *path == own.join("config"));
    let named = absolute
        .filter(|_| !is_own)
        .map(|path| path.display().to_string());
    ssh_config::read(text, named.as_deref(), &mut include)
}

/// The texts of the files that an Include names; those that cannot be read are skipped, as by ssh. `left` holds the number
/// of files and of bytes that may still be read.
fn included(own: &Path, pattern: &str, left: &mut (usize, u64)) -> Vec<String> {
    let home = own.parent().unwrap_or(own);
    let pattern = match pattern.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => own.join(pattern),
    };
    let name = pattern
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let paths = if name.contains(['*', '?']) {
        let dir = pattern.parent().and_then(|dir| files_of(dir).ok());
        let mut all = dir.unwrap_or_default();
        all.retain(|path| crate::import::is_like(&name, path));
        all
    } else {
        vec![pattern]
    };
    let mut texts = Vec::new();
    for path in paths {
        let text = source::read(&path).and_then(|bytes| decode(&bytes, Fallback::Refuse));
        let Ok(text) = text else { continue };
        let size = text.len() as u64;
        if left.0 == 0 || left.1 < size {
            break;
        }
        *left = (left.0 - 1, left.1 - size);
        texts.push(text);
    }
    texts
}
