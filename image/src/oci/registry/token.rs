//! Tokens: what a registry wants to see, and who gives it.

use std::fmt::Write as _;
use std::io::Read as _;

use serde::Deserialize;
use ureq::Body;
use ureq::http::header::WWW_AUTHENTICATE;
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};

use super::super::registry_error::RegistryError;
use super::credentials::Credential;
use super::failure::{Failure, host};
use super::transport::{Request, Transport};

/// Limit of an answer with a token, in bytes.
const MAX_ANSWER: u64 = 256 << 10;

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token of somebody.
    Bearer {
        /// The URL of who gives it.
        realm: String,
        /// The name of the registry there.
        service: Option<String>,
    },
}

impl Challenge {
    /// Finds the one to be answered: a token, where there is a choice.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts = texts.filter_map(|value| value.to_str().ok());
        let challenges: Vec<_> = texts.flat_map(parse).collect();
        let named = |name: &str| {
            let found = challenges.iter().find(|it| it.0.eq_ignore_ascii_case(name));
            found.map(|(_, parameters)| parameters)
        };
        let value = |parameters: &[(String, String)], name: &str| {
            let found = parameters.iter().find(|it| it.0.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        let bearer = named("bearer").and_then(|parameters| {
            Some(Self::Bearer {
                realm: value(parameters, "realm")?,
                service: value(parameters, "service"),
            })
        });
        bearer.or_else(|| named("basic").map(|_| Self::Basic))
    }
}

/// A scheme and its parameters.
type Parsed = (String, Vec<(String, String)>);

/// Splits a header into challenges (RFC 9110, 11.6.1).
fn parse(text: &str) -> Vec<Parsed> {
    let mut challenges: Vec<Parsed> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            // Nothing, or what is none.
            return challenges;
        }
        let (name, behind) = rest.split_at(end);
        match (behind.strip_prefix('='), challenges.last_mut()) {
            (Some(behind), Some((_, parameters))) => {
                let (value, behind) = value(behind);
                parameters.push((name.to_owned(), value));
                rest = behind;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push((name.to_owned(), Vec::new()));
                rest = behind;
            }
        }
    }
}

/// Splits a value, in quotation marks or not, from what follows it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, behind) = text.split_at(end);
        return (value.to_owned(), behind);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks for a token to pull from a repository. The URL of who gives it is the registry's word: it is
/// looked at as a redirection is.
pub(super) fn fetch(
    transport: &Transport,
    (registry, repository): (&Uri, &str),
    (realm, service): (&str, Option<&str>),
    credential: Option<&Credential>,
) -> Result<String, Failure> {
    let mut query = format!(
        "scope={}",
        encoded(&format!("repository:{repository}:pull"))
    );
    if let Some(service) = service {
        let _ = write!(query, "&service={}", encoded(service));
    }
    let realm = transport.allowed(registry, realm)?;
    let response = match credential {
        Some(Credential::IdentityToken(token)) => {
            let token = encoded(token);
            let form = format!(
                "grant_type=refresh_token&client_id=ironclaw&refresh_token={token}&{query}"
            );
            transport.post(&realm, &form)
        }
        credential => {
            let mark = if realm.query().is_some() { '&' } else { '?' };
            let url = format!("{realm}{mark}{query}");
            let header = credential.and_then(Credential::header);
            transport.get(&Request {
                url: url
                    .parse()
                    .map_err(|_| senseless(&realm, "its realm is no URL"))?,
                accept: "application/json",
                authorization: header.as_deref(),
                from: 0,
            })
        }
    }?;
    read(&realm, repository, response)
}

fn read(realm: &Uri, repository: &str, mut response: Response<Body>) -> Result<String, Failure> {
    let status = response.status();
    if status != StatusCode::OK {
        return Err(Failure::of_status(
            host(realm),
            (status, response.body_mut()),
            &format!("a token for {repository}"),
        ));
    }
    let mut bytes = Vec::new();
    let body = response.body_mut().as_reader();
    let read = body.take(MAX_ANSWER + 1).read_to_end(&mut bytes);
    if read.is_err() || bytes.len() as u64 > MAX_ANSWER {
        return Err(senseless(realm, "its token is endless, or breaks off"));
    }
    let answer = serde_json::from_slice::<Answer>(&bytes).ok();
    let token = answer.and_then(|it| it.token.or(it.access_token));
    let token = token.filter(|it| !it.is_empty() && HeaderValue::from_str(it).is_ok());
    token.ok_or_else(|| senseless(realm, "it gives no token"))
}

fn senseless(realm: &Uri, reason: &str) -> Failure {
    Failure {
        error: RegistryError::Protocol {
            host: host(realm),
            reason: reason.to_owned(),
        },
        is_transient: false,
    }
}

/// Encodes a text for a query or a form.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(texts: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
        }
        Challenge::of(&headers)
    }

    #[test]
    fn challenges_are_read_in_every_form() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            })
        };
        for (texts, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/t?x=1\",service=\"s, \\\"q\\\"\",scope=\"y\""],
                bearer("https://a/t?x=1", Some("s, \"q\"")),
            ),
            (
                &["Basic realm=x, Bearer  realm=https://a"],
                bearer("https://a", None),
            ),
            (&["Negotiate", "BEARER Realm=\"r\""], bearer("r", None)),
            (&["Bearer service=\"s\""], None),
            (&["Digest realm=\"x\""], None),
            (&["realm=\"x\""], None),
            (&["Bearer realm=\"unfinished"], bearer("unfinished", None)),
            (&["=\"x\",,"], None),
            (&[], None),
        ] {
            assert_eq!(challenge(texts), expected, "{texts:?}");
        }
    }

    #[test]
    fn what_goes_into_a_query_can_not_end_it() {
        assert_eq!(encoded("a/b:c&d=e f\u{e9}"), "a%2Fb%3Ac%26d%3De%20f%C3%A9");
    }

    proptest::proptest! {
        #[test]
        fn challenges_of_any_text_are_read(text in "\\PC{0,100}") {
            drop(parse(&text));
        }
    }
}
