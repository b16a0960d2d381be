use super::*;

const SHA256: &str = "00be21c0c17f08ddf26e82d3b53fe7a41efa4a288938da6bb69e89c4b25c281d";

fn stanza(fields: &str) -> String {
    format!("Package: linux-image-cloud-amd64\nVersion: 6.1.27-1\n{fields}Description: Linux")
}

#[test]
fn a_stanza_gives_a_package() {
    let depends = "Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.27-1)\n";
    let package = parse(&stanza(&format!("{depends}SHA256: {SHA256}\n"))).unwrap();
    assert_eq!(
        (package.name.as_str(), package.version.as_str()),
        ("linux-image-cloud-amd64", "6.1.27-1")
    );
    let kernel = depended_kernel(&package.depends).unwrap();
    assert_eq!(kernel, "linux-image-6.1.0-9-cloud-amd64=6.1.27-1");
}

#[test]
fn a_package_that_can_t_be_checked_is_not_offered() {
    assert_eq!(parse(&stanza("")), None);
    assert_eq!(parse(&stanza("SHA256: 1234\n")), None);
}

#[test]
fn a_version_that_would_leave_the_cache_is_refused() {
    let stanza = format!("Package: busybox\nVersion: ../../x\nSHA256: {SHA256}\n");
    assert_eq!(parse(&stanza), None);
}

#[test]
fn a_kernel_package_stands_for_itself() {
    assert_eq!(
        depended_kernel("kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool"),
        None
    );
}

#[test]
fn only_package_names_reach_the_command_line() {
    for name in [
        "busybox-static",
        "libstdc++6",
        "linux-image-6.1.0-9=1:6.1~rc1+b1",
    ] {
        assert!(is_selector(name), "{name}");
    }
    for name in [
        "", "-o", "--help", "a b", "../x", "a/b", "a=", "a=-x", "*", "a=1=2",
    ] {
        assert!(!is_selector(name), "{name}");
    }
}
