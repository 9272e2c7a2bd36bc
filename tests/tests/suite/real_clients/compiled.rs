//! Java and Go. Their compilers are large, so these tests run with `tests/run --all-clients`.

use anyhow::Result;

use super::{FarSite, all_clients};

const JAVA: &str = r#"
import java.net.*;
import java.net.http.*;
public class Fetch {
    public static void main(String[] args) throws Exception {
        for (String url : args) {
            System.out.println(new String(new URL(url).openConnection().getInputStream().readAllBytes()));
            HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
            System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
"#;

const GO: &str = r#"
package main

import ("fmt"; "io"; "net/http"; "os")

func main() {
	for _, url := range os.Args[1:] {
		response, err := http.Get(url)
		if err != nil { fmt.Println(err); os.Exit(1) }
		body, _ := io.ReadAll(response.Body)
		fmt.Println(string(body))
	}
}
"#;

#[tokio::test]
async fn java_follows_its_options_in_both_of_its_clients() -> Result<()> {
    if !all_clients("Java") {
        return Ok(());
    }
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let file = site.write("Fetch.java", JAVA)?;
    let store = site.path("store").display().to_string();
    let import = [
        "-importcert",
        "-noprompt",
        "-alias",
        "lab",
        "-storepass",
        "password",
        "-keystore",
        &store,
        "-file",
        &site.certificate(),
    ];
    tunneld_tests::process::run_tool("keytool", &import).await?;
    let lines = site
        .fixture
        .home
        .ctl(&["env", "t", "--java"])
        .await?
        .expect_exit(0)?
        .stdout;
    let (http, https) = (site.http_url(), site.https_url());
    let script = format!(
        "{lines}\nexec java -Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=password {file} {http}/page {https}/page"
    );
    let printed = tunneld_tests::process::run_tool("sh", &["-c", &script]).await?;
    assert_eq!(printed, "far page\n".repeat(4));
    // Without them Java looks the name up here.
    let plain = site
        .exec(&[], &["java", &file, &format!("{http}/page")])
        .await?
        .expect_exit(1)?;
    assert!(plain.stderr.contains("UnknownHostException"), "{plain:#?}");
    Ok(())
}

#[tokio::test]
async fn go_follows_the_variables() -> Result<()> {
    if !all_clients("Go") {
        return Ok(());
    }
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let (file, program) = (
        site.write("main.go", GO)?,
        site.path("fetch").display().to_string(),
    );
    // Kept, because compiling the standard library takes long.
    let cache = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-build");
    let build = [
        format!("GOCACHE={}", cache.display()),
        "GO111MODULE=off".to_owned(),
        "CGO_ENABLED=0".to_owned(),
        "HOME=/nonexistent".to_owned(),
    ];
    let build: Vec<&str> = build.iter().map(String::as_str).collect();
    let argv = [&build[..], &["go", "build", "-o", &program, &file]].concat();
    tunneld_tests::process::run_tool("env", &argv).await?;
    let certificate = site.certificate();
    let variables = [("SSL_CERT_FILE", certificate.as_str())];
    let (http, https) = (site.http_url() + "/page", site.https_url() + "/page");
    let printed = site
        .exec(&variables, &[&program, &http, &https])
        .await?
        .expect_exit(0)?;
    assert_eq!(printed.stdout, "far page\nfar page\n");
    Ok(())
}
