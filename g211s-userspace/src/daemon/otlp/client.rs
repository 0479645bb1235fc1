//! One POST over HTTP/1.1, without TLS: a collector on this machine or network. Must not know what is posted.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// As much of an answer as is read.
const MAX_ANSWER: usize = 4096;

/// Posts a protobuf body to `endpoint` + `path`.
///
/// # Errors
/// It was not taken, and why.
pub async fn post(
    endpoint: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<()> {
    let sent = tokio::time::timeout(PATIENCE, exchange(endpoint, path, headers, body));
    let status = sent.await.with_context(|| format!("{endpoint} did not answer in time"))??;
    if !(200..300).contains(&status) {
        bail!("{endpoint}{path} answered {status}");
    }
    Ok(())
}

async fn exchange(
    endpoint: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<u16> {
    let (address, base) = split(endpoint)?;
    let host = address.clone();
    let address = if has_port(&address) { address } else { format!("{address}:80") };
    let mut stream =
        TcpStream::connect(&address).await.with_context(|| format!("connecting to {address}"))?;
    let mut head = format!(
        "POST {base}{path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\
         User-Agent: g211s/{}\r\nConnection: close\r\n",
        body.len(),
        env!("CARGO_PKG_VERSION")
    );
    for (name, value) in headers {
        if [name, value].iter().any(|t| t.contains(['\r', '\n'])) {
            bail!("the header `{}` has a line break in it", name.escape_debug());
        }
        // Writing to a String does not fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    let mut chunk = [0; 512];
    // The first line is all that matters.
    while !answer.contains(&b'\n') && answer.len() < MAX_ANSWER {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&chunk[..n]);
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    status.with_context(|| format!("{endpoint} does not speak HTTP/1.1"))
}

/// `http://HOST:PORT/BASE` → `HOST:PORT` and `/BASE` (without a slash at its end).
fn split(endpoint: &str) -> Result<(String, String)> {
    let rest = endpoint.strip_prefix("http://").context("the endpoint begins with http://")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (address, base) = rest.split_at(at);
    if address.is_empty() || !base.bytes().all(|b| b.is_ascii_graphic()) {
        bail!("`{endpoint}` is no address of a collector");
    }
    Ok((address.to_owned(), base.trim_end_matches('/').to_owned()))
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn endpoints() {
        let split = |e| split(e).ok();
        assert_eq!(split("http://h:4318"), Some(("h:4318".into(), String::new())));
        assert_eq!(split("http://h/otlp/"), Some(("h".into(), "/otlp".into())));
        assert_eq!(split("http://"), None);
        assert_eq!(split("https://h"), None);
        assert_eq!(split("http://h/a b"), None);
        assert!(has_port("[::1]:80") && !has_port("[::1]") && !has_port("h"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_posted_arrives_and_a_refusal_is_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let endpoint = format!("http://{}/base", listener.local_addr().expect("is bound"));
        let server = tokio::spawn(async move {
            let mut seen = Vec::new();
            for answer in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n", "SSH-2.0-x\r\n"]
            {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"BODY") {
                    let mut chunk = [0; 256];
                    let n = stream.read(&mut chunk).await.expect("reads");
                    bytes.extend_from_slice(&chunk[..n]);
                }
                stream.write_all(answer.as_bytes()).await.expect("writes");
                seen.push(String::from_utf8(bytes).expect("text"));
            }
            seen
        });
        let headers = [("x-key".to_owned(), "v".to_owned())];
        post(&endpoint, "/v1/metrics", &headers, b"BODY").await.expect("is taken");
        let refused = post(&endpoint, "/v1/logs", &headers, b"BODY").await.expect_err("is refused");
        assert!(refused.to_string().contains("503"), "{refused}");
        assert!(post(&endpoint, "/v1/logs", &[], b"BODY").await.is_err());
        let seen = server.await.expect("ends");
        assert!(seen[0].starts_with("POST /base/v1/metrics HTTP/1.1\r\n"), "{}", seen[0]);
        assert!(seen[0].contains("\r\nx-key: v\r\n") && seen[0].contains("Content-Length: 4\r\n"));
        let bad = [("a\r\nb".to_owned(), String::new())];
        assert!(post(&endpoint, "/", &bad, b"").await.is_err());
    }
}
