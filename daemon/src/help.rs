//! The texts after the options in help texts.

pub(crate) const SERVE_EXAMPLES: &str = "\
Clients need an API key (`ironclaw key create`), but for those on the Unix socket. SIGTERM and Ctrl-C pause
what runs; the next daemon goes on with it.

Examples:
  ironclaw serve
  ironclaw serve --listen 127.0.0.1:8080 --socket /run/ironclaw.sock --warm base";

pub(crate) const KEY_CREATE_EXAMPLES: &str = "\
Examples:
  export E2B_API_KEY=$(ironclaw key create laptop)
  ironclaw key create ci --json";

pub(crate) const KEY_LIST_EXAMPLES: &str = "\
Examples:
  ironclaw key list
  ironclaw key list --json";

pub(crate) const KEY_REVOKE_EXAMPLES: &str = "\
Examples:
  ironclaw key revoke laptop";
