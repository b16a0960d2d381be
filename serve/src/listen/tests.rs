//! Clients that behave badly.

use std::time::Duration;

use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

/// A server that answers `hello`, and `/endless` without an end.
struct Fixture {
    address: SocketAddr,
    end: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Fixture {
    async fn start(bounds: Bounds) -> Self {
        let mut server = Server::new(bounds);
        let any = "127.0.0.1:0".parse().unwrap();
        let address = server.listen_tcp(any, &Reach::Loopback).await.unwrap();
        let endless = || async {
            let piece = || Ok::<_, std::convert::Infallible>(Bytes::from_static(&[7; 65536]));
            Body::from_stream(stream::repeat_with(piece))
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/endless", get(endless));
        let (end, ended) = oneshot::channel();
        let served = tokio::spawn(server.route(router, async { drop(ended.await) }));
        Self {
            address,
            end,
            served,
        }
    }

    async fn ask(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn end(self) {
        self.end.send(()).unwrap();
        self.served.await.unwrap();
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Reads to the end; a connection that is reset ends, too.
async fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        all.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn who_sends_a_head_byte_by_byte_is_given_up() {
    let bounds = Bounds {
        head_timeout: Duration::from_millis(100),
        ..Bounds::default()
    };
    let fixture = Fixture::start(bounds).await;
    let slow = fixture.ask("GET / HTTP/1.1\r\nX-Slow: ").await;
    let answer = rest(slow).await;
    assert!(!answer.contains("hello"), "{answer}");
    // So is who sends nothing at all.
    rest(fixture.ask("").await).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_head_that_is_too_big_is_refused() {
    let bounds = Bounds {
        head_bytes: 8192,
        ..Bounds::default()
    };
    let fixture = Fixture::start(bounds).await;
    let long = format!("GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(10_000));
    let answer = rest(fixture.ask(&long).await).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    fixture.end().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let bounds = Bounds {
        connections: 2,
        ..Bounds::default()
    };
    let fixture = Fixture::start(bounds).await;
    let (one, two) = (fixture.ask("").await, fixture.ask("").await);
    let mut third = fixture.ask(GET).await;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), third.read(&mut byte)).await;
    assert!(early.is_err(), "it was served beside two others");
    drop(one);
    assert!(rest(third).await.contains("TTP/1.1 200 "));
    drop(two);
    fixture.end().await;
}

#[tokio::test]
async fn who_reads_nothing_of_an_answer_is_given_up() {
    let bounds = Bounds {
        connections: 1,
        write_timeout: Duration::from_millis(100),
        ..Bounds::default()
    };
    let fixture = Fixture::start(bounds).await;
    let stuck = fixture
        .ask("GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    // It had the only place.
    let answer = rest(fixture.ask(GET).await).await;
    assert!(answer.ends_with("hello"), "{answer}");
    drop(stuck);
    fixture.end().await;
}

#[tokio::test]
async fn who_vanishes_in_the_middle_of_an_answer_leaves_its_place() {
    let bounds = Bounds {
        connections: 1,
        ..Bounds::default()
    };
    let fixture = Fixture::start(bounds).await;
    drop(
        fixture
            .ask("GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            .await,
    );
    let answer = rest(fixture.ask(GET).await).await;
    assert!(answer.ends_with("hello"), "{answer}");
    fixture.end().await;
}

#[tokio::test]
async fn an_address_that_others_reach_is_listened_on_if_that_is_meant() {
    let mut server = Server::new(Bounds::default());
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let refused = server.listen_tcp(any, &Reach::Loopback).await;
    assert!(matches!(refused, Err(ListenError::Open(_))));
    server.listen_tcp(any, &Reach::Plain).await.unwrap();
}
