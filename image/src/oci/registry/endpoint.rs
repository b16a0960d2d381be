//! Where requests may go.

use std::net::IpAddr;

use ureq::http::Uri;
use ureq::http::uri::Scheme;

use super::super::access::RegistryAccess;

/// The registry of `docker.io`, whose name is not that of its host.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// Returns the host, with its port, of a registry by the name that people give it.
pub(super) fn host(registry: &str) -> &str {
    let (name, host) = DOCKER_HUB;
    if registry == name { host } else { registry }
}

/// Returns whether a host is this machine, whatever the network says.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
}

/// Returns whether a host, as it is written, leads to this machine: also in forms that are no loopback
/// address by their text.
fn is_here(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_address = |it: IpAddr| it.is_loopback() || it.is_unspecified();
    name == "localhost"
        || name.ends_with(".localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|it| is_address(it.to_canonical()))
}

/// Returns why a URL is not asked for; `None` if it is.
pub(super) fn refusal(url: &Uri, access: &RegistryAccess) -> Option<&'static str> {
    let Some(host) = url.host().filter(|host| !host.is_empty()) else {
        return Some("it names no host");
    };
    let is_plain = url
        .authority()
        .is_some_and(|it| access.is_plain(it.as_str()));
    if access.without_this_machine && is_here(host) && !is_plain {
        return Some(
            "a registry on this machine is for its own users, and in `registry_plain_http`",
        );
    }
    match url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => None,
        Some(scheme) if *scheme == Scheme::HTTP => {
            let refusal = "plain HTTP is for this machine, and for those in `registry_plain_http`";
            (!is_plain && !is_loopback(host)).then_some(refusal)
        }
        _ => Some("it is no URL of HTTP"),
    }
}

/// Returns where a `Location` leads, seen from a URL.
pub(super) fn target(from: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    let url = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let path = from.path();
        let directory = path.get(..=path.rfind('/')?)?;
        format!("{scheme}://{authority}{directory}{location}")
    };
    url.parse().ok()
}

/// Returns why a redirection is not followed; `None` if it is.
pub(super) fn redirect_refusal(
    from: &Uri,
    to: &Uri,
    access: &RegistryAccess,
) -> Option<&'static str> {
    if from.scheme() == Some(&Scheme::HTTPS) && to.scheme() != Some(&Scheme::HTTPS) {
        return Some("that is without the TLS that it was asked with");
    }
    refusal(to, access)
}

/// Returns whether two URLs are of one server, which may know what the other does.
pub(super) fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn plain_http_goes_no_farther_than_this_machine() {
        let none = RegistryAccess::default();
        let access = RegistryAccess {
            plain_http: vec!["registry.example".to_owned()],
            ..RegistryAccess::default()
        };
        for (url, allowed, with_setting) in [
            ("https://registry.example/v2/", true, true),
            ("http://registry.example/v2/", false, true),
            ("http://127.0.0.1:5000/v2/", true, true),
            ("http://127.9.9.9/v2/", true, true),
            ("http://localhost:5000/v2/", true, true),
            ("http://[::1]:5000/v2/", true, true),
            ("http://registry.example:81/v2/", false, false),
            ("http://user@registry.example/v2/", false, false),
            ("http://localhost.example/v2/", false, false),
            ("http://127.0.0.1.example/v2/", false, false),
            ("ftp://127.0.0.1/v2/", false, false),
            ("/v2/", false, false),
        ] {
            assert_eq!(refusal(&uri(url), &none).is_none(), allowed, "{url}");
            assert_eq!(refusal(&uri(url), &access).is_none(), with_setting, "{url}");
        }
        let secure = uri("https://registry.example/v2/a");
        let plain = uri("http://127.0.0.1:1/v2/a");
        assert!(redirect_refusal(&secure, &plain, &access).is_some());
        assert!(redirect_refusal(&plain, &secure, &none).is_none());
    }

    #[test]
    fn requests_of_others_do_not_reach_this_machine() {
        let mut access = RegistryAccess::default().without_this_machine();
        access.plain_http = vec!["localhost:5000".to_owned()];
        for (url, allowed) in [
            ("https://registry.example/v2/", true),
            ("https://localhost/v2/", false),
            ("https://LOCALHOST./v2/", false),
            ("https://a.localhost/v2/", false),
            ("https://0.0.0.0/v2/", false),
            ("https://[::ffff:127.0.0.1]/v2/", false),
            ("https://[::1]:8443/v2/", false),
            ("http://127.0.0.1:5000/v2/", false),
            ("http://localhost:5000/v2/", true),
            ("http://localhost:5001/v2/", false),
        ] {
            assert_eq!(refusal(&uri(url), &access).is_none(), allowed, "{url}");
        }
    }

    #[test]
    fn a_location_is_seen_from_where_it_was_said() {
        let from = uri("https://a.example:1/v2/x/blobs/y?z=1");
        for (location, expected) in [
            ("https://b.example/c?d", "https://b.example/c?d"),
            ("//b.example/c", "https://b.example/c"),
            ("/c", "https://a.example:1/c"),
            ("c", "https://a.example:1/v2/x/blobs/c"),
        ] {
            assert_eq!(target(&from, location), Some(uri(expected)), "{location}");
        }
        assert!(target(&from, "https://a b/").is_none());
    }
}
