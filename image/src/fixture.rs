//! Minimal kernels, modules and programs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use object::write::Object;
use object::{Architecture, BinaryFormat, Endianness, SectionKind};

use crate::debian::{BuildSpec, BusyboxSource, KernelSource};

pub(crate) const RELEASE: &str = "6.1.0-9-test";

const HEADER: usize = 64;
const SEGMENT: usize = 56;
const LOAD_ADDRESS: u64 = 0x40_0000;

fn segment(kind: u32, flags: u32, offset: u64, length: u64) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(kind.to_le_bytes());
    segment.extend(flags.to_le_bytes());
    let (address, align) = (LOAD_ADDRESS + offset, if kind == 1 { 4096 } else { 4 });
    for value in [offset, address, address, length, length, align] {
        segment.extend(value.to_le_bytes());
    }
    segment
}

/// Builds an executable of one loadable segment, the whole file, and one more segment of type
/// `kind` over `content`.
fn elf(kind: u32, content: &[u8]) -> Vec<u8> {
    let start = HEADER + 2 * SEGMENT;
    let length = (start + content.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, version
    elf.extend((LOAD_ADDRESS + start as u64).to_le_bytes());
    elf.extend((HEADER as u64).to_le_bytes());
    elf.extend([0; 12]); // no sections, no flags
    elf.extend([64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend(segment(1, 5, 0, length));
    elf.extend(segment(kind, 4, start as u64, content.len() as u64));
    elf.extend(content);
    elf
}

/// Builds a static program that prints `text`.
pub(crate) fn program(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    let mut code = vec![0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0]; // write(1,
    code.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]); // the text behind the code,
    code.push(0xba);
    code.extend(length.to_le_bytes());
    code.extend([0x0f, 0x05]);
    code.extend([0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]); // exit(0)
    code.extend(text.as_bytes());
    elf(0, &code)
}

/// Builds a program that needs a dynamic linker.
pub(crate) fn dynamic_program() -> Vec<u8> {
    elf(3, b"/lib64/ld-linux-x86-64.so.2\0")
}

/// Builds a kernel image with a banner and, if `pvh`, the note of a PVH entry.
pub(crate) fn vmlinux(pvh: bool) -> Vec<u8> {
    let mut content = Vec::new();
    for word in [4_u32, 8, if pvh { 18 } else { 6 }] {
        content.extend(word.to_le_bytes());
    }
    content.extend(b"Xen\0\0\0\0\x01\0\0\0\0");
    // Not the banner, but the format of /proc/version, which starts alike.
    let mut image = elf(4, &content);
    image.extend(b"Linux version %s (%s)\0");
    image.extend(format!("Linux version {RELEASE} (builder@test) #1 SMP\n\0").as_bytes());
    image
}

/// Builds a bzImage around a compressed payload that ends with its size.
pub(crate) fn bz_image(payload: &[u8]) -> Vec<u8> {
    const SECTORS: u8 = 3;
    const OFFSET: usize = 40;
    let mut image = vec![0; (usize::from(SECTORS) + 1) * 512 + OFFSET];
    image[0x1f1] = SECTORS;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    image[0x248..0x24c].copy_from_slice(&u32::try_from(OFFSET).unwrap().to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend(payload);
    image.extend([0; 8]); // as the checksum behind a real payload
    image
}

/// Splits `bytes` into blocks as `lz4 -l` does.
pub(crate) fn lz4_legacy(bytes: &[u8], block: usize) -> Vec<u8> {
    let mut stream = b"\x02\x21\x4c\x18".to_vec();
    for block in bytes.chunks(block) {
        let compressed = lz4_flex::block::compress(block);
        stream.extend(u32::try_from(compressed.len()).unwrap().to_le_bytes());
        stream.extend(compressed);
    }
    stream
}

pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Builds a kernel module.
pub(crate) fn module(release: &str, depends: &str) -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let section = object.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    let modinfo = format!("license=GPL\0depends={depends}\0vermagic={release} SMP mod_unload \0");
    object.append_section_data(section, modinfo.as_bytes(), 1);
    object.write().unwrap()
}

/// Creates a directory of modules, like `/lib/modules`, from names and dependencies. Those with
/// `None` are built in.
pub(crate) fn modules_dir(directory: &Path, modules: &[(&str, Option<&str>)]) {
    let drivers = directory.join("kernel/drivers");
    fs::create_dir_all(&drivers).unwrap();
    let mut built_in = String::new();
    for (name, depends) in modules {
        match depends {
            Some(depends) => {
                fs::write(drivers.join(format!("{name}.ko")), module(RELEASE, depends)).unwrap();
            }
            None => built_in += &format!("kernel/drivers/{name}.ko\n"),
        }
    }
    fs::write(directory.join("modules.builtin"), built_in).unwrap();
}

/// The modules that a guest needs, for [`modules_dir`]; only ext4 is built in.
pub(crate) const GUEST_MODULES: [(&str, Option<&str>); 11] = [
    ("ext4", None),
    ("overlay", Some("")),
    ("squashfs", Some("")),
    ("virtio", Some("virtio_ring")),
    ("virtio_blk", Some("virtio_ring,virtio")),
    ("virtio_console", Some("virtio_ring,virtio")),
    ("virtio-rng", Some("virtio")),
    ("virtio_mmio", Some("virtio,virtio_ring")),
    ("virtio_net", Some("virtio_ring,virtio")),
    ("virtio_ring", Some("")),
    ("vmw_vsock_virtio_transport", Some("virtio")),
];

/// Creates files in `directory` and returns a template's inputs; the agent prints `agent`.
pub(crate) fn spec(directory: &Path, agent: &str) -> BuildSpec {
    let path = |name: &str| -> PathBuf { directory.join(name) };
    fs::write(path("agent"), program(agent)).unwrap();
    fs::write(path("vmlinuz"), vmlinux(true)).unwrap();
    modules_dir(&path("modules"), &GUEST_MODULES);
    // Not executable, as on a file system mounted `noexec`.
    fs::write(path("busybox"), program("bin/busybox\nbin/sh\nsbin/init\n")).unwrap();
    BuildSpec {
        agent: path("agent"),
        kernel: KernelSource::Files {
            image: path("vmlinuz"),
            modules_dir: path("modules"),
        },
        busybox: BusyboxSource::File(path("busybox")),
        max_root_bytes: 1 << 30,
        ..BuildSpec::new("")
    }
}

/// Programs, modules and kernels as small as they can be, by a name for each.
#[cfg(feature = "fuzzing")]
pub fn seeds() -> [(&'static str, Vec<u8>); 7] {
    let kernel = vmlinux(true);
    let with_size = |mut payload: Vec<u8>| {
        payload.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
        payload
    };
    [
        ("program", program("hi")),
        ("module", module(RELEASE, "virtio,virtio_ring")),
        ("vmlinux", kernel.clone()),
        ("lz4", bz_image(&with_size(lz4_legacy(&kernel, 100)))),
        ("xz", bz_image(&with_size(xz(&kernel)))),
        ("lz4_alone", lz4_legacy(&kernel, 100)),
        ("xz_alone", xz(&kernel)),
    ]
}
