//! Signatures of URLs for files, by which a browser may transfer one without the sandbox's token:
//! `v1_` and the base64 of a SHA-256 of `PATH:OPERATION:USER:TOKEN[:EXPIRATION]`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::secret::Secret;

/// What a URL is signed for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) path: &'a str,
    /// `read` or `write`.
    pub(super) operation: &'a str,
    pub(super) user: &'a str,
    /// Seconds since 1970.
    pub(super) expiration: Option<u64>,
}

impl Signed<'_> {
    /// Returns whether a signature is one of this by the sandbox's token.
    pub(super) fn is_signed_by(&self, token: &Secret, signature: &str) -> bool {
        let expected = self.sign(token);
        expected.as_bytes().ct_eq(signature.as_bytes()).into()
    }

    fn sign(&self, token: &Secret) -> String {
        let Self {
            path,
            operation,
            user,
            expiration,
        } = self;
        let mut text = format!("{path}:{operation}:{user}:{}", token.reveal());
        if let Some(expiration) = expiration {
            text.push_str(&format!(":{expiration}"));
        }
        format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_python_sdk() {
        // e2b.sandbox.signature.get_signature("/a", "read", "user", "token")["signature"], with and
        // without an expiration that is 1700000000.
        let token = Secret::known("token".to_owned());
        let mut signed = Signed {
            path: "/a",
            operation: "read",
            user: "user",
            expiration: None,
        };
        let plain = "v1_MTo2xowazkHy1MgGwYBHxr+gIN82G3dLPTD2iJqUjig";
        assert!(
            signed.is_signed_by(&token, plain),
            "{}",
            signed.sign(&token)
        );
        signed.expiration = Some(1_700_000_000);
        let expiring = "v1_UCn9YiXOlfvWihAKDutW9QI8YP12zuWXKsfbmDG4JrA";
        assert!(
            signed.is_signed_by(&token, expiring),
            "{}",
            signed.sign(&token)
        );
        signed.user = "root";
        assert!(!signed.is_signed_by(&token, expiring));
    }
}
