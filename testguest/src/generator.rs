//! The guest's random generator: deterministic between two seedings, as a kernel's is, so that
//! clones of one snapshot draw the same bytes until each gets its identity.

use sha2::{Digest, Sha256};

/// A hash chain over SHA-256. It serves tests: nothing in this guest keeps a secret.
#[derive(Debug, Clone)]
pub struct Generator {
    state: [u8; 32],
}

impl Generator {
    /// Starts from `seed`, of any length and quality.
    #[must_use]
    pub fn new(seed: &[u8]) -> Self {
        let mut generator = Self { state: [0; 32] };
        generator.mix(seed);
        generator
    }

    /// Makes everything drawn from now on depend on `entropy` as well as on the past.
    pub fn mix(&mut self, entropy: &[u8]) {
        self.state = self.derive(b"mix", entropy);
    }

    /// Returns the next 32 bytes, and destroys the state that they came from.
    pub fn draw(&mut self) -> [u8; 32] {
        let drawn = self.derive(b"draw", &[]);
        self.state = self.derive(b"next", &[]);
        drawn
    }

    fn derive(&self, purpose: &[u8], input: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.state);
        hash.update(purpose);
        hash.update(input);
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_draw_the_same_until_each_is_mixed_with_something_else() {
        let mut one = Generator::new(b"boot");
        let mut other = one.clone();
        assert_eq!(one.draw(), other.draw());
        one.mix(&[1; 32]);
        other.mix(&[2; 32]);
        assert_ne!(one.draw(), other.draw());
    }

    #[test]
    fn no_two_draws_are_the_same() {
        let mut generator = Generator::new(b"boot");
        assert_ne!(generator.draw(), generator.draw());
    }
}
