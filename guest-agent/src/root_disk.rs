//! Makes a template's root disk the root of the guest: a read-only image that all clones share, and
//! over it a disk that takes what this guest writes.
//!
//! ```text
//!  /            overlay
//!   ├ lower     /dev/vd?, read-only    erofs, squashfs or ext4
//!   └ upper     /dev/vd?, writable     ext4
//! ```
//!
//! Firecracker's disks have no names that a guest could read, so they are told by whether they can
//! be written. The kernel's command line says whether there are any: a guest that lost them must not
//! run its commands in the initramfs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{chdir, chroot};
use thiserror::Error;

use crate::console::say;
use crate::identity;
use crate::overlay::Overlay;

/// The argument of the kernel that says that there is a root disk.
const ARGUMENT: &str = ironclaw_protocol::ROOT_DISK_ARGUMENT;
/// Where the kernel lists its disks.
const DISKS: &str = "/sys/block";
/// Mount points in the initramfs.
const IMAGE: &str = "/.image";
const SCRATCH: &str = "/.scratch";
const NEW_ROOT: &str = "/.root";
/// A file system for the identity alone, which no program of the guest fills by accident.
const OWN: &str = "/run/ironclaw";
const OWN_SIZE: &std::ffi::CStr = c"mode=0755,size=512k";
/// Limit of what is kept of an image's file; a table of names has some hundred bytes.
const MAX_IDENTITY_FILE: usize = 64 << 10;
/// Mounts that move along, with those below them.
const MOVED: [&str; 3] = ["proc", "sys", "dev"];
/// Depth of directories in an initramfs.
const MAX_DEPTH: u32 = 64;
/// From linux/magic.h: the file systems that an initramfs may be on.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Something failed; without its root disk a guest is not what it should be.
#[derive(Debug, Error)]
pub(crate) enum RootDiskError {
    #[error("{attempt}")]
    Io { attempt: String, source: io::Error },
    #[error("there are {images} read-only and {scratch} writable disks, and not one of each")]
    OtherDisks { images: usize, scratch: usize },
    #[error("{} is neither an erofs nor a squashfs nor an ext4 image", path.display())]
    UnknownImage { path: PathBuf },
}

fn failed<E: Into<io::Error>>(attempt: impl Into<String>) -> impl FnOnce(E) -> RootDiskError {
    let attempt = attempt.into();
    move |source| RootDiskError::Io {
        attempt,
        source: source.into(),
    }
}

/// Switches to the root disk if the guest has one, and returns its layers. /proc, /sys and /dev are
/// mounted, and move along.
pub(crate) fn switch() -> Result<Option<Overlay>, RootDiskError> {
    let arguments = fs::read_to_string("/proc/cmdline").map_err(failed("read /proc/cmdline"))?;
    if !arguments.split_whitespace().any(|word| word == ARGUMENT) {
        return Ok(None);
    }
    let (image, scratch) = find()?;
    let kind = kind(&image)?;
    mount_at(&image, IMAGE, kind, MountFlags::RDONLY)?;
    mount_at(&scratch, SCRATCH, "ext4", MountFlags::NOATIME)?;
    let overlay = mount_overlay()?;
    let old = openat(
        CWD,
        "/",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let old = old.map_err(failed("open the initramfs"))?;
    for name in MOVED {
        let (from, to) = (format!("/{name}"), format!("{NEW_ROOT}/{name}"));
        make(&to)?;
        mount_move(&from, &to).map_err(failed(format!("move {from} to {to}")))?;
    }
    chdir(NEW_ROOT).map_err(failed("change to the new root"))?;
    mount_move(".", "/").map_err(failed("move the new root to /"))?;
    chroot(".").map_err(failed("change the root"))?;
    chdir("/").map_err(failed("change to /"))?;
    // The guest has the memory for itself.
    if is_in_memory(&old)
        && let Err(error) = clear(&old)
    {
        say(format_args!("remove the initramfs: {error}"));
    }
    Ok(Some(overlay))
}

/// Mounts the files of the guest's identity over those of the image, from memory of their own.
pub(crate) fn mount_identity() -> Result<(), RootDiskError> {
    make(OWN)?;
    mount(
        "tmpfs",
        OWN,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(OWN_SIZE),
    )
    .map_err(failed(format!("mount {OWN}")))?;
    let (from, to) = (Path::new("/").join(identity::MOUNTED), Path::new("/etc"));
    for directory in [&*from, to] {
        fs::create_dir_all(directory).map_err(failed(format!(
            "create the directory {}",
            directory.display()
        )))?;
    }
    for name in identity::FILES {
        let (from, to) = (from.join(name), to.join(name));
        mount_over(&from, &to).map_err(failed(format!("mount over {}", to.display())))?;
    }
    Ok(())
}

/// Makes `from` a copy of the file `to`, as far as there is one, and mounts it there.
fn mount_over(from: &Path, to: &Path) -> io::Result<()> {
    let is_file = match to.symlink_metadata() {
        Ok(facts) => facts.is_file(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    let content = if is_file { fs::read(to)? } else { Vec::new() };
    if !is_file {
        // A link of the image would lead elsewhere.
        match fs::remove_file(to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => drop(File::create_new(to)?),
        }
    }
    let mut file = OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o644).open(from)?;
    file.write_all(content.get(..MAX_IDENTITY_FILE).unwrap_or(&content))?;
    Ok(mount_bind(from, to)?)
}

/// Finds the image and the disk over it.
fn find() -> Result<(PathBuf, PathBuf), RootDiskError> {
    let (mut images, mut scratch) = (Vec::new(), Vec::new());
    let listed = fs::read_dir(DISKS).map_err(failed(format!("list {DISKS}")))?;
    for entry in listed.flatten() {
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b"vd") {
            continue;
        }
        let attribute = entry.path().join("ro");
        let is_read_only = fs::read_to_string(&attribute)
            .map_err(failed(format!("read {}", attribute.display())))?;
        let device = Path::new("/dev").join(name);
        if is_read_only.trim() == "1" {
            images.push(device);
        } else {
            scratch.push(device);
        }
    }
    match (images.as_slice(), scratch.as_slice()) {
        ([image], [scratch]) => Ok((image.clone(), scratch.clone())),
        _ => Err(RootDiskError::OtherDisks {
            images: images.len(),
            scratch: scratch.len(),
        }),
    }
}

/// Returns the kind of file system in an image.
fn kind(image: &Path) -> Result<&'static str, RootDiskError> {
    let mut head = [0; 2048];
    File::open(image)
        .and_then(|mut file| file.read_exact(&mut head))
        .map_err(failed(format!("read {}", image.display())))?;
    kind_of(&head).ok_or_else(|| RootDiskError::UnknownImage {
        path: image.to_owned(),
    })
}

fn kind_of(head: &[u8; 2048]) -> Option<&'static str> {
    let magics: [(&str, usize, &[u8]); 3] = [
        ("erofs", 1024, &0xe0f5_e1e2_u32.to_le_bytes()),
        ("squashfs", 0, b"hsqs"),
        ("ext4", 1024 + 0x38, &0xef53_u16.to_le_bytes()),
    ];
    let found = magics
        .into_iter()
        .find(|(_, at, magic)| head[*at..].starts_with(magic));
    found.map(|(kind, ..)| kind)
}

fn mount_at(
    device: &Path,
    at: &str,
    kind: &'static str,
    flags: MountFlags,
) -> Result<(), RootDiskError> {
    make(at)?;
    let attempt = format!("mount {} as {kind}", device.display());
    mount(device, at, kind, flags, None).map_err(failed(attempt))
}

fn mount_overlay() -> Result<Overlay, RootDiskError> {
    make(NEW_ROOT)?;
    let (upper, work) = (format!("{SCRATCH}/upper"), format!("{SCRATCH}/work"));
    make(&upper)?;
    make(&work)?;
    let overlay = open_layers(&upper)?;
    let layers = format!("lowerdir={IMAGE},upperdir={upper},workdir={work}");
    // Whatever the kernel's defaults are: a file that differs is in the upper layer as a whole, under
    // its own name.
    let plain = format!("{layers},redirect_dir=off,index=off,metacopy=off");
    // Nothing of it has to survive the guest, so nothing waits for the disk. Since Linux 5.10.
    for options in [format!("{plain},volatile"), plain, layers] {
        match mount(
            "overlay",
            NEW_ROOT,
            "overlay",
            MountFlags::empty(),
            Some(&*c_string(options)?),
        ) {
            Err(Errno::INVAL) => {}
            mounted => {
                mounted.map_err(failed("mount the overlay"))?;
                return Ok(overlay);
            }
        }
    }
    Err(failed("mount the overlay")(Errno::INVAL))
}

/// Opens both layers, and gives the root that they make the owner and the mode of the image's.
fn open_layers(upper: &str) -> Result<Overlay, RootDiskError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &str| {
        openat(CWD, path, flags, Mode::empty()).map_err(failed(format!("open {path}")))
    };
    let (upper, lower) = (open(upper)?, open(IMAGE)?);
    let root = fstat(&lower).map_err(failed(format!("look at {IMAGE}")))?;
    let (uid, gid) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
    fchown(&upper, Some(uid), Some(gid))
        .and_then(|()| fchmod(&upper, Mode::from_raw_mode(root.st_mode)))
        .map_err(failed("give the root its owner and its mode"))?;
    Ok(Overlay::new(upper, lower))
}

fn c_string(text: String) -> Result<std::ffi::CString, RootDiskError> {
    std::ffi::CString::new(text).map_err(failed("mount the overlay"))
}

fn make(path: &str) -> Result<(), RootDiskError> {
    fs::create_dir_all(path).map_err(failed(format!("create the directory {path}")))
}

fn is_in_memory(root: impl AsFd) -> bool {
    let kind = rustix::fs::fstatfs(root).ok();
    kind.and_then(|facts| u64::try_from(facts.f_type).ok())
        .is_some_and(|kind| IN_MEMORY.contains(&kind))
}

/// Removes what is in a directory, and on its file system.
fn clear(directory: &OwnedFd) -> io::Result<()> {
    clear_below(directory, fstat(directory)?.st_dev, MAX_DEPTH)
}

fn clear_below(directory: &OwnedFd, device: u64, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(Errno::LOOP.into());
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    for name in names {
        let facts = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if facts.st_dev != device {
            continue;
        }
        if FileType::from_raw_mode(facts.st_mode) != FileType::Directory {
            unlinkat(directory, &name, AtFlags::empty())?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inner = openat(directory, &name, flags, Mode::empty())?;
        clear_below(&inner, device, depth - 1)?;
        match unlinkat(directory, &name, AtFlags::REMOVEDIR) {
            // Something is mounted there, or below it.
            Ok(()) | Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_image_is_told_by_its_magic_number() {
        let mut head = [0; 2048];
        assert_eq!(kind_of(&head), None);
        head[1024 + 0x38..][..2].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(kind_of(&head), Some("ext4"));
        head[..4].copy_from_slice(b"hsqs");
        assert_eq!(kind_of(&head), Some("squashfs"));
        head[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        assert_eq!(kind_of(&head), Some("erofs"));
    }

    #[test]
    fn an_initramfs_is_removed_and_what_its_links_lead_to_is_not() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("lib/modules")).unwrap();
        fs::write(root.path().join("lib/modules/a.ko"), "module").unwrap();
        symlink(outside.path(), root.path().join("link")).unwrap();
        let directory = File::open(root.path()).unwrap().into();
        clear(&directory).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }
}
