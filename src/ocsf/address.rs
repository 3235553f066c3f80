//! Texts that OCSF constrains: IP addresses, `host:port` and e-mail addresses.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv6Addr};

/// An IP address with its canonical text, the only form we write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ip {
    text: [u8; 48],
    len: usize,
}

impl Ip {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let address: IpAddr = text.parse().ok()?;
        let mut ip = Self { text: [0; 48], len: 0 };
        // The longest text of an address has 45 bytes, the longest canonical one 39.
        match address {
            // It has one text only: no leading zeros, no spaces.
            IpAddr::V4(_) => ip.write_str(text),
            IpAddr::V6(address) => write!(ip, "{address}"),
        }
        .ok()?;
        Some(ip)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or("")
    }
}

impl Write for Ip {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.text.get_mut(self.len..self.len + part.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.len += part.len();
        Ok(())
    }
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Host<'a> {
    Ip(Ip),
    Name(&'a str),
}

/// `host` or `host:port`, as a resource of type `network` is identified.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint<'a> {
    pub(super) host: Host<'a>,
    pub(super) port: Option<u16>,
}

impl<'a> Endpoint<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if let Some(ip) = Ip::parse(text) {
            return Some(Self { host: Host::Ip(ip), port: None });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (inside, rest) = rest.split_once(']')?;
            let host = Host::Ip(inside.parse::<Ipv6Addr>().ok().and_then(|_| Ip::parse(inside))?);
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(parse_port(port)?),
                None if rest.is_empty() => None,
                None => return None,
            };
            return Some(Self { host, port });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        let host = match Ip::parse(host) {
            Some(ip) => Host::Ip(ip),
            None if is_hostname(host) => Host::Name(host),
            None => return None,
        };
        Some(Self { host, port })
    }

    /// Whether the decoder will compose exactly this text.
    pub(super) fn is_exact(&self, text: &str) -> bool {
        let host = match &self.host {
            Host::Ip(ip) => ip.as_str(),
            Host::Name(name) => name,
        };
        let mut composed = Composed { expected: text, exact: true };
        let written = compose(host, self.port.map(u64::from), &mut composed);
        written.is_ok() && composed.exact && composed.expected.is_empty()
    }
}

/// Writes `host`, `host:port` or `[v6]:port`.
pub(super) fn compose(host: &str, port: Option<u64>, out: &mut impl Write) -> fmt::Result {
    match port {
        None => out.write_str(host),
        Some(port) if host.contains(':') => write!(out, "[{host}]:{port}"),
        Some(port) => write!(out, "{host}:{port}"),
    }
}

/// Compares what is written with what is expected, without keeping it.
struct Composed<'a> {
    expected: &'a str,
    exact: bool,
}

impl Write for Composed<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        match self.expected.strip_prefix(part) {
            Some(rest) => self.expected = rest,
            None => self.exact = false,
        }
        Ok(())
    }
}

fn parse_port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A DNS name. One whose last label is a number is a mistyped address (`999.1.1.1`), not a name.
fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.len() <= 253
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| last.bytes().any(|byte| !byte.is_ascii_digit()))
}

/// What OCSF's `email_t` admits: `^[a-zA-Z0-9!#$%&'*+-/=?^_`{|}~.]+@[a-zA-Z0-9-]+\.[a-zA-Z0-9-.]+$`.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let Some((first, rest)) = domain.split_once('.') else { return false };
    let in_domain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !local.is_empty()
        && local.bytes().all(|byte| IN_LOCAL[usize::from(byte)])
        && !first.is_empty()
        && first.bytes().all(in_domain)
        && !rest.is_empty()
        && rest.bytes().all(|byte| in_domain(byte) || byte == b'.')
}

/// Bytes of the part before the `@`.
const IN_LOCAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        // `+-/` in the pattern is a range and admits the comma.
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'!' | b'#'..=b'\'' | b'*'..=b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Option<(String, Option<u16>, bool)> {
        let endpoint = Endpoint::parse(text)?;
        let host = match endpoint.host {
            Host::Ip(ip) => format!("ip {}", ip.as_str()),
            Host::Name(name) => name.to_owned(),
        };
        Some((host, endpoint.port, endpoint.is_exact(text)))
    }

    #[test]
    fn endpoints_are_read_and_composed_again() {
        let is = |host: &str, port, exact| Some((host.to_owned(), port, exact));
        assert_eq!(endpoint("203.0.113.9:443"), is("ip 203.0.113.9", Some(443), true));
        assert_eq!(endpoint("pypi.example.com:443"), is("pypi.example.com", Some(443), true));
        assert_eq!(endpoint("pypi.example.com"), is("pypi.example.com", None, true));
        assert_eq!(endpoint("[2001:db8::1]:443"), is("ip 2001:db8::1", Some(443), true));
        assert_eq!(endpoint("2001:DB8::1"), is("ip 2001:db8::1", None, false));
        assert_eq!(endpoint("[::1]"), is("ip ::1", None, false));
        assert_eq!(endpoint("h:0443"), is("h", Some(443), false));
        for text in [
            "",
            ":",
            "h:",
            ":1",
            "h:65536",
            "h:+1",
            "h:x",
            "a b:1",
            "https://h/",
            "999.1.1.1:1",
            "1.2.3",
            "[x]:1",
            "[1.2.3.4]:1",
            "[::1]x",
            "ü:1",
            "-h",
            "a..b",
            "fe80::1%eth0",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_become_canonical() {
        assert_eq!(Ip::parse(" 10.0.0.1 ").unwrap().as_str(), "10.0.0.1");
        assert_eq!(Ip::parse("::FFFF:10.0.0.1").unwrap().as_str(), "::ffff:10.0.0.1");
        assert_eq!(Ip::parse("1:2:3:4:5:6:7:8").unwrap().as_str(), "1:2:3:4:5:6:7:8");
        assert!(Ip::parse("10.0.0.256").is_none() && Ip::parse("").is_none());
    }

    #[test]
    fn email_addresses_are_those_of_the_schema() {
        for good in ["mira@example.org", "a+b@x.y", "a,b@x.y", "a@-.-"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "alice@localhost", "@x.y", "a@.y", "a@x.", "a@b@c.d", "ü@x.y", "a@x.y\n", "a b@x.y", "a@x_y.z"]
        {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
