//! Who may reach the ports of a sandbox, and under which name.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// Stands for the port in [`PortAccess::host`].
const PORT: &str = "${PORT}";

/// How requests from outside come to the ports of a sandbox.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct PortAccess {
    /// What a request has to present; `None`: nothing.
    #[serde(default, with = "optional_secret")]
    pub(crate) token: Option<Secret>,
    /// The host name that programs in the sandbox are told in place of the one that was asked for.
    #[serde(default)]
    pub(crate) host: Option<String>,
}

impl PortAccess {
    /// Returns whether a request with this token, if any, comes in.
    pub(crate) fn admits(&self, presented: Option<&str>) -> bool {
        match &self.token {
            Some(token) => presented.is_some_and(|presented| token.is(presented)),
            None => true,
        }
    }

    /// Returns the host name that a program on `port` is told, if it is another one.
    pub(crate) fn host_of(&self, port: u16) -> Option<String> {
        let host = self.host.as_ref()?;
        Some(host.replace(PORT, &port.to_string()))
    }
}

mod optional_secret {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::secret::Secret;

    pub(super) fn serialize<S: Serializer>(
        secret: &Option<Secret>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        secret.as_ref().map(Secret::reveal).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Secret::known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_where_there_is_one_and_kept() {
        let open = PortAccess::default();
        assert!(open.admits(None) && open.admits(Some("x")));
        let closed = PortAccess {
            token: Some(Secret::known("x".to_owned())),
            host: None,
        };
        let kept = serde_json::to_string(&closed).unwrap();
        let closed: PortAccess = serde_json::from_str(&kept).unwrap();
        assert!(closed.admits(Some("x")));
        assert!(!closed.admits(None) && !closed.admits(Some("y")));
        assert!(
            serde_json::from_str::<PortAccess>("{}")
                .unwrap()
                .admits(None)
        );
    }

    #[test]
    fn a_program_is_told_the_host_that_was_asked_for_with_its_port() {
        let access = PortAccess {
            token: None,
            host: Some("localhost:${PORT}".to_owned()),
        };
        assert_eq!(access.host_of(8080).as_deref(), Some("localhost:8080"));
        assert_eq!(PortAccess::default().host_of(8080), None);
    }
}
