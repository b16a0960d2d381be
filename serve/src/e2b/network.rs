//! What the API says of a sandbox's network: guests have none to the outside, and ports that lead in.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;

/// Limit of a host name that programs in a sandbox are told, in bytes.
const MAX_HOST: usize = 253;

/// The field `network` of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Network {
    allow_public_traffic: Option<bool>,
    mask_request_host: Option<String>,
    /// Nothing leaves a guest, so that this holds whatever it says.
    #[serde(rename = "denyOut")]
    _deny_out: Option<Vec<String>>,
    /// All else would let something out, or change it on its way.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// What a sandbox gets of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// Whether its ports ask for a token.
    pub(super) is_private: bool,
    /// The host name that its programs are told.
    pub(super) host: Option<String>,
}

impl Network {
    /// Returns what it asks for; refuses by name what can't be had.
    pub(super) fn accept(self) -> Result<Accepted, Failure> {
        let refused = |(name, value): &(&String, &Value)| {
            *name != "allow_internet_access" && asks_for_something(value)
        };
        if let Some((name, _)) = self.others.iter().find(refused) {
            return Err(Failure::refused(&format!("network.{name}")));
        }
        let host = self.mask_request_host.filter(|host| !host.is_empty());
        if let Some(host) = &host {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]${}".contains(&byte);
            if host.len() > MAX_HOST || !host.bytes().all(is_plain) {
                return Err(Failure::bad_request(
                    "network.maskRequestHost is no host name",
                ));
            }
        }
        Ok(Accepted {
            is_private: self.allow_public_traffic == Some(false),
            host,
        })
    }

    /// Returns what is to be changed of a sandbox that is there: its ports stay as they were made.
    pub(super) fn accept_update(self) -> Result<(), Failure> {
        match self.accept()? {
            accepted if accepted == Accepted::default() => Ok(()),
            _ => Err(Failure::bad_request(
                "who reaches the ports of a sandbox is set when it is made",
            )),
        }
    }
}

/// Returns whether a field that can't be served has something in it.
pub(super) fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(all) => all.iter().any(asks_for_something),
        Value::Object(all) => all.values().any(asks_for_something),
        // What a client writes that asks for the default.
        Value::Bool(value) => !value,
        Value::Number(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Network {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_holds_without_a_network_is_accepted() {
        let accepted = |json| parse(json).accept().unwrap();
        let open =
            r#"{"allowPublicTraffic":true,"denyOut":["0.0.0.0/0"],"rules":{},"egressProxy":null}"#;
        assert_eq!(accepted(open), Accepted::default());
        assert!(accepted(r#"{"allowPublicTraffic":false}"#).is_private);
        let masked = accepted(r#"{"maskRequestHost":"localhost:${PORT}"}"#);
        assert_eq!(masked.host.as_deref(), Some("localhost:${PORT}"));
        parse(r#"{"denyOut":["8.8.8.8"]}"#).accept_update().unwrap();
    }

    #[test]
    fn what_would_let_something_out_is_refused_by_name() {
        for (name, value) in [
            ("allowOut", r#"["1.1.1.1"]"#),
            ("rules", r#"{"a.com":[{"transform":{}}],"b.com":["x"]}"#),
            ("egressProxy", r#"{"address":"x"}"#),
            ("somethingNew", "1"),
        ] {
            let network = parse(&format!(r#"{{"{name}":{value}}}"#));
            let failure = network.accept().unwrap_err();
            assert!(failure.message.contains(name), "{}", failure.message);
        }
        assert!(parse(r#"{"maskRequestHost":"a\r\nb"}"#).accept().is_err());
        assert!(
            parse(r#"{"allowPublicTraffic":false}"#)
                .accept_update()
                .is_err()
        );
    }
}
