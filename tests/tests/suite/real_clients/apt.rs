//! apt with a package source at the far side.

use anyhow::Result;

use super::FarSite;

const PACKAGES: &str = "Package: labpkg\nVersion: 1.0\nArchitecture: all\nMaintainer: lab <lab@example.org>\n\
    Filename: ./labpkg.deb\nSize: 1\n\
    SHA256: 0000000000000000000000000000000000000000000000000000000000000000\nDescription: lab\n\n";

#[tokio::test]
async fn apt_reads_a_far_package_source() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    std::fs::create_dir(site.nginx.root().join("apt"))?;
    std::fs::write(site.nginx.root().join("apt/Packages"), PACKAGES)?;
    for folder in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(site.path(folder))?;
    }
    site.write("status", "")?;
    let sources = format!("deb [trusted=yes] {}/apt ./\n", site.http_url());
    site.write("sources.list", &sources)?;
    let root = site.folder.path().display();
    let options = [
        format!("Dir::State={root}"),
        format!("Dir::State::status={root}/status"),
        format!("Dir::Cache={root}/cache"),
        format!("Dir::Etc::sourcelist={root}/sources.list"),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        // Nothing of this machine's apt.conf, which may name a proxy.
        "Dir::Etc::main=/dev/null".to_owned(),
        "Dir::Etc::parts=/dev/null".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let options: Vec<&str> = options
        .iter()
        .flat_map(|one| ["-o", one.as_str()])
        .collect();
    let update = [&["apt-get"], &options[..], &["update"]].concat();
    site.exec(&[], &update).await?.expect_exit(0)?;
    let show = [&["apt-cache"], &options[..], &["show", "labpkg"]].concat();
    let shown = site.exec(&[], &show).await?.expect_exit(0)?;
    assert!(shown.stdout.contains("Version: 1.0"), "{shown:#?}");
    Ok(())
}
