//! Facilities of the operating system for programs that run VMs, without any knowledge of VMs:
//! processes and their confinement, `/proc`, locks, directories with a mark, control groups,
//! limits.

pub mod disk;
pub mod file_access;
pub mod flock;
pub mod host_limits;
pub mod mark;
pub mod mount;
pub mod own_groups;
pub mod proc;
pub mod refused_calls;
pub mod regular_file;
pub mod state_path;
pub mod sys;
pub mod system_files;
pub mod tree;
pub mod tsc;
pub mod untrusted;
