//! git over https.

use anyhow::Result;

use super::{FarSite, shell_in};

#[tokio::test]
async fn git_clones_over_https() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let make = "git -c init.defaultBranch=main init -q work && cd work && echo content >file && git add file && \
                git -c user.name=lab -c user.email=lab@example.org commit -qm one && cd .. && \
                git clone -q --bare work repo.git && git -C repo.git update-server-info";
    shell_in(&site.nginx.root(), make).await?;
    let (url, to) = (format!("{}/repo.git", site.https_url()), site.path("clone"));
    let to = to.display().to_string();
    let certificate = site.certificate();
    let variables = [("GIT_SSL_CAINFO", certificate.as_str())];
    let cloned = site
        .exec(&variables, &["git", "clone", "-q", &url, &to])
        .await?;
    cloned.expect_exit(0)?;
    assert_eq!(
        std::fs::read_to_string(site.path("clone/file"))?,
        "content\n"
    );
    Ok(())
}
