//! Node.js: an agent that uses CONNECT, and `NODE_USE_ENV_PROXY`.

use anyhow::Result;

use super::FarSite;

/// What the packages `https-proxy-agent` and `tunnel` do.
const AGENT: &str = r#"
const http = require('http'), https = require('https'), tls = require('tls');
const proxy = new URL(process.env.https_proxy), url = new URL(process.argv[1]);
const failed = error => { console.error(error); process.exit(1); };
http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: url.host }).on('connect', (answer, socket) => {
  if (answer.statusCode !== 200) failed(answer.statusCode);
  const createConnection = () => tls.connect({ socket, servername: url.hostname });
  https.get(url, { createConnection }, response => response.pipe(process.stdout)).on('error', failed);
}).on('error', failed).end();
"#;

/// Prints whether this version follows the variables, then what `fetch` makes of it.
const FETCH: &str = r#"
const [major, minor] = process.versions.node.split('.').map(Number);
console.log(major >= 24 || (major === 22 && minor >= 21) ? 'far page' : 'ignored');
fetch(process.argv[1]).then(response => response.text()).then(console.log, error => {
  console.log(error.cause.code === 'ENOTFOUND' || error.cause.code === 'EAI_AGAIN' ? 'ignored' : error);
});
"#;

#[tokio::test]
async fn node_uses_connect_by_an_agent_and_the_variables_from_version_22_21() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let (certificate, url) = (site.certificate(), site.https_url() + "/page");
    let variables = [("NODE_EXTRA_CA_CERTS", certificate.as_str())];
    let printed = site.exec(&variables, &["node", "-e", AGENT, &url]).await?;
    assert_eq!(printed.expect_exit(0)?.stdout, "far page");
    let printed = site
        .exec(&variables, &["node", "-e", FETCH, &url])
        .await?
        .expect_exit(0)?;
    let (expected, found) = printed.stdout.split_once('\n').unwrap_or_default();
    assert_eq!(found.trim_end(), expected, "{printed:#?}");
    Ok(())
}
