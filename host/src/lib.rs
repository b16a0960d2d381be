//! What the operating system offers to whoever runs VMs, and knows none: processes and what confines
//! them, `/proc`, locks, directories that are ours, control groups, limits.

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
