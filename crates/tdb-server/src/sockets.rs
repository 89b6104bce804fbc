//! The three listening sockets, bound together before anything else starts: a port that is taken is said at once.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Error, Result, anyhow};

/// An address and the option that changes it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub address: SocketAddr,
    pub option: &'static str,
}

#[derive(Debug)]
pub struct Sockets {
    pub proxy: TcpListener,
    pub api: TcpListener,
    pub metrics: TcpListener,
}

impl Sockets {
    pub fn bind(proxy: Wanted, api: Wanted, metrics: Wanted) -> Result<Self> {
        Ok(Self {
            proxy: bind(proxy, "the proxy")?,
            api: bind(api, "the API")?,
            metrics: bind(metrics, "metrics")?,
        })
    }
}

fn bind(wanted: Wanted, whose: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(wanted.address).map_err(|e| refusal(wanted, whose, e))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn refusal(wanted: Wanted, whose: &str, error: std::io::Error) -> Error {
    let Wanted { address, option } = wanted;
    match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow!(
                "port {} for {whose} is taken on {}; choose another with {option}",
                address.port(),
                address.ip()
            )
        }
        _ => Error::new(error).context(format!("cannot listen on {address} for {whose} ({option})")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_option() {
        let any = |option| Wanted {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            option,
        };
        let first = Sockets::bind(any("--a"), any("--b"), any("--c")).unwrap();
        let taken = Wanted {
            address: first.api.local_addr().unwrap(),
            option: "--api-port",
        };
        let refused = Sockets::bind(any("--a"), taken, any("--c")).unwrap_err().to_string();
        assert!(refused.contains(&taken.address.port().to_string()), "{refused}");
        assert!(
            refused.contains("for the API") && refused.ends_with("--api-port"),
            "{refused}"
        );
    }
}
