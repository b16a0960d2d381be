//! Tests that Firecracker's own last messages are reported.

use ironclaw_orchestrator::vm::config::JailChoice;
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_command_gets_firecracker_s_last_log_lines() {
    // Jailed, too, if this is root and there is a jailer.
    for jail in [JailChoice::Off, JailChoice::Auto] {
        let Some(mut lab) = Lab::open().await else {
            return;
        };
        lab.config.jail = jail;
        let (_launcher, vm) = lab.vm("victim").await;
        let mut running = vm.start(["sleep", "3600000"]).await.unwrap();
        // The guest handles requests in order: after this answer the command runs.
        assert_eq!(run(&vm, ["echo", "on"]).await, "on\n");
        let pid = Pid::from_raw(vm.pid().try_into().unwrap()).unwrap();
        // Firecracker has a handler for this signal, which logs it and ends the process.
        kill_process(pid, Signal::HUP).unwrap();
        let error = running.next().await.unwrap_err().to_string();
        assert!(error.contains("intercepting signal 1"), "{jail:?}: {error}");
    }
}
