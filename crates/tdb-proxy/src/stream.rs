//! A byte stream to a client or a server: TCP, a Unix socket, or TLS over TCP. An enum, so that the relay needs neither
//! generics nor the dynamic calls of a trait object.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// The number of bytes that are read and discarded from a client after the last message to it.
const LINGER_LEN_MAX: usize = 64 * 1024;

pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS with a client. Boxed, since most sessions have none.
    TlsFromClient(Box<server::TlsStream<TcpStream>>),
    TlsToServer(Box<client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Reads the available bytes into `buffer` and returns their number; 0 at the end of the stream. Cancel safe.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Stream::TlsFromClient(stream) => Pin::new(stream.as_mut()).poll_read(cx, &mut buffer),
            Stream::TlsToServer(stream) => Pin::new(stream.as_mut()).poll_read(cx, &mut buffer),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::TlsFromClient(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
            Stream::TlsToServer(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    /// Sends the bytes that TLS has buffered; does nothing on plain sockets.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::TlsFromClient(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Stream::TlsToServer(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    /// Closes the sending side: the peer reads the end of the stream.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::TlsFromClient(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Stream::TlsToServer(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }

    /// Fills `buffer`. Not cancel safe: bytes that a dropped call has read are lost.
    pub(crate) async fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.read_exact(buffer).await.map(drop),
            Stream::Unix(stream) => stream.read_exact(buffer).await.map(drop),
            Stream::TlsFromClient(stream) => stream.read_exact(buffer).await.map(drop),
            Stream::TlsToServer(stream) => stream.read_exact(buffer).await.map(drop),
        }
    }

    /// Writes all `bytes` and flushes. Not cancel safe.
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes).await,
            Stream::Unix(stream) => stream.write_all(bytes).await,
            Stream::TlsFromClient(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
            Stream::TlsToServer(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Writes a last message, closes the sending side, and reads until the client closes: closing a socket with unread data
    /// resets the connection, and the client could lose the message. The caller sets the deadline. Not cancel safe.
    pub(crate) async fn close_with(&mut self, message: &[u8]) -> io::Result<()> {
        self.write_all(message).await?;
        self.shutdown().await?;
        self.linger().await
    }

    /// Reads and discards until the client closes, or [`LINGER_LEN_MAX`] bytes. The caller sets the deadline.
    pub(crate) async fn linger(&mut self) -> io::Result<()> {
        let mut unread = [0; 1024];
        let mut left = LINGER_LEN_MAX;
        loop {
            let len = std::future::poll_fn(|cx| self.poll_read(cx, &mut unread)).await?;
            left = left.saturating_sub(len);
            if len == 0 || left == 0 {
                return Ok(());
            }
        }
    }

    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => false,
            Stream::TlsFromClient(_) | Stream::TlsToServer(_) => true,
        }
    }
}
