//! Minimal relays in several variants, which show the cost of a tokio relay without a protocol. They only copy bytes in both
//! directions, and are used only for measurements.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use clap::ValueEnum;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// The default of tokio.
pub(crate) const EVENT_INTERVAL: u32 = 61;
const SCRATCH_LEN: usize = 64 * 1024;

thread_local! {
    /// One buffer for each worker. A session has a buffer only while its peer does not accept data that was already read.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_LEN].into_boxed_slice());
}

/// How a session waits for data and copies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// One task, `poll_read` into the worker's buffer, written immediately.
    Shared,
    /// Like `shared`, on a `LocalSet`, which tasks that are not `Send` need.
    Local,
    /// One task, `ready` on both sockets and `try_read` until it would block.
    Readable,
    /// `tokio::io::copy_bidirectional`.
    Copy,
    /// Two tasks per session, one for each direction.
    Split,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay {
    pub listen: SocketAddr,
    pub upstream: SocketAddr,
    pub variant: Variant,
    /// How many task polls tokio makes before it polls the sockets again.
    pub event_interval: u32,
}

impl Variant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Readable => "readable",
            Self::Copy => "copy",
            Self::Split => "split",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::value_variants()
            .iter()
            .copied()
            .find(|variant| variant.name() == name)
    }
}

impl Relay {
    /// Serves until the process is killed.
    pub(crate) fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .event_interval(self.event_interval)
            .build()?;
        match self.variant {
            Variant::Local => tokio::task::LocalSet::new().block_on(&runtime, self.accept()),
            // The acceptor is a task, because the future that `block_on` runs is polled in each iteration of the runtime.
            _ => runtime.block_on(async move { tokio::spawn(self.accept()).await? }),
        }
    }

    async fn accept(self) -> io::Result<()> {
        let listener = TcpListener::bind(self.listen).await?;
        loop {
            let (client, _) = listener.accept().await?;
            match self.variant {
                Variant::Local => drop(tokio::task::spawn_local(self.session(client))),
                _ => drop(tokio::spawn(self.session(client))),
            }
        }
    }

    async fn session(self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        match self.variant {
            Variant::Shared | Variant::Local => shared(client, server).await,
            Variant::Readable => readable(client, server).await,
            Variant::Copy => copy(client, server).await,
            Variant::Split => split(client, server).await,
        }
    }
}

async fn shared(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    poll_fn(|cx| {
        if pump(cx, &mut client, &mut server, &mut to_server)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        pump(cx, &mut server, &mut client, &mut to_client)
    })
    .await
}

/// Copies until `from` has no more data or `to` accepts no more; ready at the end of `from`.
/// A read that does not fill the buffer shows tokio that the socket is empty, so there is no read that would block.
fn pump(cx: &mut Context<'_>, from: &mut TcpStream, to: &mut TcpStream, pending: &mut Vec<u8>) -> Poll<io::Result<()>> {
    loop {
        if !pending.is_empty() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, pending))?;
            pending.drain(..written);
            continue;
        }
        let read = SCRATCH.with_borrow_mut(|scratch| -> Poll<io::Result<usize>> {
            let mut buf = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut buf))?;
            let filled = buf.filled();
            let written = match Pin::new(&mut *to).poll_write(cx, filled) {
                Poll::Ready(written) => written?,
                Poll::Pending => 0,
            };
            pending.extend_from_slice(filled.get(written..).unwrap_or_default());
            Poll::Ready(Ok(filled.len()))
        });
        if ready!(read)? == 0 {
            return Poll::Ready(Ok(()));
        }
    }
}

async fn readable(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let mut buf = vec![0; SCRATCH_LEN];
    loop {
        let (from, to) = tokio::select! {
            biased;
            ready = client.readable() => { ready?; (&client, &server) }
            ready = server.readable() => { ready?; (&server, &client) }
        };
        loop {
            match from.try_read(&mut buf) {
                Ok(0) => return Ok(()),
                Ok(read) => write_all(to, buf.get(..read).unwrap_or_default()).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

async fn write_all(to: &TcpStream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match to.try_write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn copy(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

async fn split(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let upward = tokio::spawn(async move { tokio::io::copy(&mut client_read, &mut server_write).await });
    tokio::io::copy(&mut server_read, &mut client_write).await?;
    upward.abort();
    Ok(())
}
