//! Links the image as a static ELF at a fixed address, with no start-up files and no libraries.

use std::env;
use std::path::Path;

fn main() {
    let Some(here) = env::var_os("CARGO_MANIFEST_DIR") else {
        return;
    };
    let script = Path::new(&here).join("image.ld");
    println!("cargo:rerun-if-changed=image.ld");
    // These come after the compiler's own `-pie`, and the last one wins.
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    println!("cargo:rustc-link-arg-bins=-Wl,--build-id=none,-z,noexecstack,-z,max-page-size=4096");
}
