//! The three listening sockets, bound together before anything else starts: a port that is taken is said at once.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Error, Result, anyhow, bail};

/// An address and the option that changes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub address: SocketAddr,
    pub option: &'static str,
}

#[derive(Debug)]
pub(crate) struct Sockets {
    pub proxy: TcpListener,
    pub api: TcpListener,
    pub metrics: TcpListener,
}

impl Sockets {
    pub(crate) fn bind(proxy: Wanted, api: Wanted, metrics: Wanted) -> Result<Self> {
        let bound = (bind(proxy, "the proxy"), bind(api, "the API"), bind(metrics, "metrics"));
        match bound {
            (Ok(proxy), Ok(api), Ok(metrics)) => Ok(Self { proxy, api, metrics }),
            (proxy, api, metrics) => {
                let refused = [proxy.err(), api.err(), metrics.err()];
                let lines: Vec<String> = refused.into_iter().flatten().map(|e| e.to_string()).collect();
                bail!("{}", lines.join("\n"))
            }
        }
    }
}

/// Whether a port that another process will bind is currently free.
pub(crate) fn check_free(wanted: Wanted, whose: &str) -> Result<()> {
    bind(wanted, whose).map(drop)
}

fn bind(wanted: Wanted, whose: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(wanted.address).map_err(|e| refusal(wanted, whose, &e))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn refusal(wanted: Wanted, whose: &str, error: &std::io::Error) -> Error {
    let Wanted { address, option } = wanted;
    let (port, ip) = (address.port(), address.ip());
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!("port {port} for {whose} is taken on {ip}; choose another with {option}"),
        _ => anyhow!("cannot listen on {address} for {whose}: {error}; choose another with {option}"),
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
        let proxy = Wanted {
            address: first.proxy.local_addr().unwrap(),
            option: "--postgres-port",
        };
        let both = Sockets::bind(proxy, taken, any("--c")).unwrap_err().to_string();
        assert_eq!(both.lines().count(), 2, "both are named at once: {both}");
        let upstream = check_free(proxy, "PostgreSQL").unwrap_err().to_string();
        assert!(upstream.contains("for PostgreSQL is taken"), "{upstream}");
    }
}
