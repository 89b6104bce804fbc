//! Serves HTTP with a limit of connections and a deadline for the header of a request, which `axum::serve` does not have.
//! Clients are not authenticated yet, and use the file descriptors of the process that is also the proxy.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most connections of one listener. Each uses a file descriptor; streams of events are connections too.
const CONNECTIONS_MAX: usize = 512;
/// The time for the header of a request, from the accept or from the end of the response before it. So it also limits how
/// long a connection is idle.
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);
/// The most bytes of a header.
const HEADER_LEN_MAX: usize = 64 * 1024;
/// The usual cause of a failed accept is that no file descriptors are left, and some may be released.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits of one listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpLimits {
    connections: usize,
    header_time: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS_MAX,
            header_time: HEADER_TIME_MAX,
        }
    }
}

/// Accepts connections until `stop`, and serves each as one of `tasks`. Running requests are answered after `stop`; the caller
/// limits the wait for `tasks`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut is_full = false;
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // Closed without a response; sending one would need the resources that are missing. Logged once per overload.
            if !is_full {
                tracing::warn!(limit = limits.connections, %peer, "too many HTTP connections; new ones are closed");
            }
            is_full = true;
            continue;
        };
        is_full = false;
        let (router, stop) = (router.clone(), stop.clone());
        tasks.spawn(async move {
            serve_connection(stream, peer, router, limits, stop).await;
            drop(place);
        });
    }
}

/// Serves the requests of one connection. Not cancel safe: a dropped future closes the connection.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: HttpLimits,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(HEADER_LEN_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = match stop.run_until_cancelled(connection.as_mut()).await {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an HTTP connection ended with an error");
    }
}

/// An error of the accepted connection itself needs no pause.
async fn pause_after(error: &Error) {
    let is_clients = [
        ErrorKind::ConnectionAborted,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionRefused,
    ];
    if !is_clients.contains(&error.kind()) {
        tracing::warn!(%error, "cannot accept an HTTP connection");
        sleep(ACCEPT_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::response::Sse;
    use axum::response::sse::Event;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    const LIMITS: HttpLimits = HttpLimits {
        connections: 3,
        header_time: Duration::from_secs(1),
    };
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    struct Site {
        address: SocketAddr,
        stop: CancellationToken,
        tasks: TaskTracker,
    }

    impl Site {
        async fn start() -> Self {
            // Events for three times as long as a header may take.
            let events = || async {
                let events = futures_util::stream::unfold(0, |number| async move {
                    sleep(LIMITS.header_time / 4).await;
                    (number < 12).then(|| (Ok::<_, Infallible>(Event::default().data("e")), number + 1))
                });
                Sse::new(events)
            };
            let router = Router::new()
                .route(
                    "/",
                    get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }),
                )
                .route("/events", get(events));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
            tasks.spawn(serve(listener, router, LIMITS, stop.clone(), tasks.clone()));
            Self { address, stop, tasks }
        }

        async fn connect(&self, bytes: &[u8]) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stream
        }
    }

    async fn read_response(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"127.0.0.1") {
            assert_ne!(
                stream.read_buf(&mut text).await.unwrap(),
                0,
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
        String::from_utf8(text).unwrap()
    }

    /// Whether the server closes the connection within a generous time.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut rest = Vec::new();
        timeout(LIMITS.header_time * 20, stream.read_to_end(&mut rest))
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn connections_without_a_whole_header_are_closed() {
        let site = Site::start().await;
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost: loc"] {
            assert!(is_closed(&mut site.connect(bytes).await).await, "{bytes:?}");
        }
        let mut idle = site.connect(REQUEST).await;
        assert!(read_response(&mut idle).await.starts_with("HTTP/1.1 200"));
        assert!(is_closed(&mut idle).await, "an idle connection");
    }

    #[tokio::test]
    async fn a_connection_serves_several_requests_and_streams_longer_than_a_header_may_take() {
        let site = Site::start().await;
        let mut stream = site.connect(REQUEST).await;
        read_response(&mut stream).await;
        stream.write_all(REQUEST).await.unwrap();
        read_response(&mut stream).await;
        stream
            .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut events = String::new();
        stream.read_to_string(&mut events).await.unwrap();
        assert_eq!(events.matches("data: e").count(), 12, "{events}");
    }

    #[tokio::test]
    async fn surplus_connections_are_closed_and_their_places_are_used_again() {
        let site = Site::start().await;
        let mut open = Vec::new();
        for _ in 0..LIMITS.connections {
            let mut stream = site.connect(REQUEST).await;
            read_response(&mut stream).await;
            open.push(stream);
        }
        let mut surplus = TcpStream::connect(site.address).await.unwrap();
        assert_eq!(surplus.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(is_closed(&mut open[0]).await);
        drop(open);
        read_response(&mut site.connect(REQUEST).await).await;
    }

    #[tokio::test]
    async fn a_stop_closes_idle_connections_and_answers_running_requests() {
        let site = Site::start().await;
        let mut idle = site.connect(REQUEST).await;
        read_response(&mut idle).await;
        let mut running = site.connect(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_ne!(running.read(&mut [0; 16]).await.unwrap(), 0);
        site.stop.cancel();
        assert!(is_closed(&mut idle).await);
        let mut events = String::new();
        running.read_to_string(&mut events).await.unwrap();
        assert_eq!(events.matches("data: e").count(), 12, "{events}");
        site.tasks.close();
        site.tasks.wait().await;
    }
}
