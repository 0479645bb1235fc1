//! As much of HTTP/1.1 as it takes to serve metrics: GET and HEAD of a few paths, one request a connection. Everything
//! of a request is a stranger's: bounded in length, in time and in number. Must not know what is served.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// Longest head of a request, bytes.
const MAX_HEAD: usize = 16 << 10;
/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take, with its request and with the answer each.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// All `Accept` headers.
    pub accept: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status and its words, e.g. `200 OK`.
    pub status: &'static str,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Body.
    pub body: Vec<u8>,
}

/// A request, and where its answer goes.
pub type Asked = (Request, oneshot::Sender<Answer>);

/// Listens; requests come out of the channel.
///
/// # Errors
/// The address cannot be listened at.
pub async fn serve(address: SocketAddr) -> std::io::Result<(SocketAddr, mpsc::Receiver<Asked>)> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    let (ask, asked) = mpsc::channel(MAX_CONNECTIONS);
    tokio::spawn(accept(listener, ask));
    Ok((local, asked))
}

async fn accept(listener: TcpListener, ask: mpsc::Sender<Asked>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let ask = ask.clone();
                tokio::spawn(async move {
                    // A client that goes away or is too slow has no answer.
                    let _ = converse(stream, ask).await;
                    drop(place);
                });
            }
            // Out of descriptors, or the client has gone again: neither is over at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, ask: mpsc::Sender<Asked>) -> std::io::Result<()> {
    let head = tokio::time::timeout(PATIENCE, read_head(&mut stream)).await??;
    let request = parse(&head);
    let is_head = request.as_ref().is_ok_and(|r| r.method == "HEAD");
    let answer = match request {
        Ok(request) => {
            let (to, answer) = oneshot::channel();
            match ask.send((request, to)).await {
                Ok(()) => answer.await.unwrap_or_else(|_| plain("503 Service Unavailable")),
                Err(_) => plain("503 Service Unavailable"),
            }
        }
        Err(status) => plain(status),
    };
    let Answer { status, content_type, body } = answer;
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    if !is_head {
        bytes.extend_from_slice(&body);
    }
    tokio::time::timeout(PATIENCE, async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    })
    .await?
}

/// An answer in its status' words.
pub fn plain(status: &'static str) -> Answer {
    let body = format!("{status}\n").into_bytes();
    Answer { status, content_type: "text/plain; charset=utf-8", body }
}

async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let n = stream.read(&mut chunk).await?;
        head.extend_from_slice(&chunk[..n]);
        let is_whole = head.windows(4).any(|w| w == b"\r\n\r\n");
        if n == 0 || is_whole || head.len() > MAX_HEAD {
            return Ok(head);
        }
    }
}

/// The head of a request; else the status to answer with.
fn parse(head: &[u8]) -> Result<Request, &'static str> {
    const BAD: &str = "400 Bad Request";
    if head.len() > MAX_HEAD {
        return Err("431 Request Header Fields Too Large");
    }
    let end = head.windows(4).position(|w| w == b"\r\n\r\n").ok_or(BAD)?;
    let text = std::str::from_utf8(&head[..end]).map_err(|_| BAD)?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, words.next())
    else {
        return Err(BAD);
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Err(BAD);
    }
    if !matches!(method, "GET" | "HEAD") {
        return Err("405 Method Not Allowed");
    }
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut accept = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(BAD)?;
        if name.eq_ignore_ascii_case("accept") {
            accept.push(value.trim());
        }
    }
    Ok(Request { method: method.to_owned(), path, accept: accept.join(",") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_requests() {
        let get =
            b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nACCEPT: text/plain\r\naccept:  */*\r\n\r\n";
        let expected = Request {
            method: "GET".into(),
            path: "/metrics".into(),
            accept: "text/plain,*/*".into(),
        };
        assert_eq!(parse(get), Ok(expected));
        for (bad, status) in [
            (&b""[..], "400 Bad Request"),
            (b"GET /\r\n\r\n", "400 Bad Request"),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "400 Bad Request"),
            (b"GET http://x/ HTTP/1.1\r\n\r\n", "400 Bad Request"),
            (b"GET /\xff HTTP/1.1\r\n\r\n", "400 Bad Request"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n", "400 Bad Request"),
            (b"PUT / HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            (&vec![b'a'; MAX_HEAD + 1][..], "431 Request Header Fields Too Large"),
        ] {
            assert_eq!(parse(bad), Err(status), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_is_answered_and_many_are() {
        let (address, mut asked) =
            serve(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("listens");
        let get = |line: &'static str| async move {
            let mut stream = TcpStream::connect(address).await.expect("connects");
            stream.write_all(line.as_bytes()).await.expect("writes");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("reads");
            text
        };
        tokio::spawn(async move {
            while let Some((request, to)) = asked.recv().await {
                let body = request.path.into_bytes();
                let _ = to.send(Answer { status: "200 OK", content_type: "text/plain", body });
            }
        });
        for _ in 0..3 * MAX_CONNECTIONS {
            let text = get("GET /x HTTP/1.1\r\n\r\n").await;
            assert!(
                text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n/x"),
                "{text}"
            );
        }
        let text = get("HEAD /x HTTP/1.1\r\n\r\n").await;
        assert!(text.contains("Content-Length: 2\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(get("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    }
}
