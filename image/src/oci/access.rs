//! How registries are reached.

use std::ffi::OsString;
use std::path::PathBuf;

/// What is known about registries beside their images: whom to trust, and as whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RegistryAccess {
    /// A file with certificates of authorities, in PEM, that sign those of registries, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The registries on other machines, as `HOST` or `HOST:PORT`, that are asked in plain HTTP. One on this
    /// machine is wherever it speaks no TLS.
    pub plain_http: Vec<String>,
    /// Files of users as docker's `config.json` and podman's `auth.json` have them. The first that has one
    /// for a registry counts; one that is not there has none.
    pub auth_files: Vec<PathBuf>,
    /// Directories with one for each registry, named `HOST` or `HOST:PORT`: in that `*.crt` are certificates of
    /// its authorities, and `*.cert` and `*.key` those of who asks.
    pub certificate_directories: Vec<PathBuf>,
    /// Whether nothing on this machine is asked but what `plain_http` names: for requests of others, who
    /// are not to reach its services by us.
    pub without_this_machine: bool,
}

impl RegistryAccess {
    /// Returns that of this process's user, where docker and podman look, too: `$REGISTRY_AUTH_FILE`, or
    /// else `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json` and
    /// `$DOCKER_CONFIG/config.json` (`~/.docker`); `/etc/containers/certs.d` and `/etc/docker/certs.d`,
    /// and `~/.config/containers/certs.d` before them.
    #[must_use]
    pub fn of_user() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let home = path("HOME");
        let below_home = |name: &str| home.as_ref().map(|home| home.join(name));
        let config = path("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
        let config = config.map(|directory| directory.join("containers"));
        let runtime = path("XDG_RUNTIME_DIR").map(|it| it.join("containers/auth.json"));
        let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker"));
        let auth_files = path("REGISTRY_AUTH_FILE").map_or_else(
            || {
                let podman = config.as_ref().map(|it| it.join("auth.json"));
                let docker = docker.map(|it| it.join("config.json"));
                runtime.into_iter().chain(podman).chain(docker).collect()
            },
            |file| vec![file],
        );
        let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        let own = config.map(|it| it.join("certs.d"));
        Self {
            auth_files,
            certificate_directories: own.into_iter().chain(system).collect(),
            ..Self::default()
        }
    }

    /// Trusts the authorities in a file, too.
    #[must_use]
    pub fn with_ca_file(mut self, file: Option<PathBuf>) -> Self {
        self.ca_file = file.or(self.ca_file);
        self
    }

    /// Asks these registries in plain HTTP, too, wherever they are.
    #[must_use]
    pub fn with_plain_http(mut self, registries: impl IntoIterator<Item = String>) -> Self {
        self.plain_http.extend(registries);
        self
    }

    /// Asks nothing on this machine but what [`plain_http`](Self::plain_http) names.
    #[must_use]
    pub fn without_this_machine(mut self) -> Self {
        self.without_this_machine = true;
        self
    }

    /// Returns whether a registry is asked in plain HTTP, wherever it is.
    #[cfg(feature = "registry")]
    pub(super) fn is_plain(&self, registry: &str) -> bool {
        self.plain_http.iter().any(|plain| plain == registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_certificates_are_looked_for_where_docker_and_podman_do() {
        let access = |variables: &[(&str, &str)]| {
            RegistryAccess::of(|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            })
        };
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let found = access(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]);
        let expected = [
            "/r/containers/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
        ];
        assert_eq!(found.auth_files, paths(&expected));
        let expected = [
            "/h/.config/containers/certs.d",
            "/etc/containers/certs.d",
            "/etc/docker/certs.d",
        ];
        assert_eq!(found.certificate_directories, paths(&expected));
        let found = access(&[
            ("DOCKER_CONFIG", "/d"),
            ("XDG_CONFIG_HOME", "/c"),
            ("HOME", ""),
        ]);
        let expected = ["/c/containers/auth.json", "/d/config.json"];
        assert_eq!(found.auth_files, paths(&expected));
        let found = access(&[("REGISTRY_AUTH_FILE", "/a"), ("DOCKER_CONFIG", "/d")]);
        assert_eq!(found.auth_files, paths(&["/a"]));
    }
}
