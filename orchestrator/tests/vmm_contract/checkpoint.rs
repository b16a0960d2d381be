//! Checkpoints of VMs in use, and the copies made from them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use ironclaw_orchestrator::vm::firecracker;
use ironclaw_orchestrator::vm::snapshot::{Kind, Snapshot};
use ironclaw_orchestrator::vm::{
    CheckpointOptions, Command, ExecEvent, Origin, Running, SpawnError, SpawnOptions, State,
    VmHandle,
};

use crate::backend::{Backend, is_alive};
use crate::contract::unique;
use crate::room::{of_vms, pool};
use crate::within::within;

on_each_vmm!(
    "checkpoint":
    a_command_counts_on_in_the_vm_and_in_two_copies_without_a_line_lost_or_doubled,
    a_vm_and_its_copies_go_on_from_one_state_with_identities_of_their_own,
    a_copy_takes_room_like_any_vm_and_is_refused_by_a_closed_pool,
);

fn kept() -> CheckpointOptions {
    CheckpointOptions::owned_by("suite")
}

/// Returns a command that prints 1, 2, 3 and so on, for ever.
fn counting(backend: &Backend) -> Command {
    if backend.launcher.vmm().kind == firecracker::KIND {
        ["count", "5"].into()
    } else {
        let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done";
        ["sh", "-c", script].into()
    }
}

/// The lines of a command that counts.
struct Count {
    running: Running,
    partial: Vec<u8>,
    /// The last number.
    last: Option<u64>,
}

impl Count {
    fn of(running: Running) -> Self {
        Self {
            running,
            partial: Vec::new(),
            last: None,
        }
    }

    /// Reads on until it says `number`, which it has to come to without leaving one out.
    async fn until(&mut self, number: u64) {
        let reached = async {
            while self.last.is_none_or(|last| last < number) {
                let event = self.running.next().await.unwrap();
                let ExecEvent::Stdout(bytes) = event else {
                    panic!("{event:?}");
                };
                self.partial.extend(bytes);
                while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.partial.drain(..=end).collect();
                    let line = String::from_utf8(line).unwrap();
                    let next: u64 = line.trim().parse().unwrap();
                    if let Some(last) = self.last {
                        assert_eq!(next, last + 1, "a line is lost or doubled");
                    }
                    self.last = Some(next);
                }
            }
        };
        within("a command that counts", reached).await;
    }

    async fn on(&mut self) {
        let last = self.last.unwrap();
        self.until(last + 20).await;
    }
}

pub(crate) async fn a_command_counts_on_in_the_vm_and_in_two_copies_without_a_line_lost_or_doubled(
    backend: &Backend,
) {
    let pool = pool(&backend.launcher, 0, &of_vms(4)).await;
    let vm = pool.spawn("original").await.unwrap();
    let running = vm.start(counting(backend)).await.unwrap();
    let id = running.id();
    let mut original = Count::of(running);
    original.until(10).await;
    let checkpoint = vm.checkpoint(kept()).await.unwrap();
    original.on().await;
    let one = pool
        .fork(&checkpoint, SpawnOptions::named("one"))
        .await
        .unwrap();
    let two = pool
        .fork(&checkpoint, SpawnOptions::named("two"))
        .await
        .unwrap();
    let mut counts = Vec::new();
    for copy in [&one, &two] {
        let known = copy.list_commands().await.unwrap();
        assert_eq!(known.iter().map(|known| known.id).collect::<Vec<_>>(), [id]);
        let mut count = Count::of(copy.attach(id).await.unwrap());
        count.until(10).await;
        count.on().await;
        counts.push(count);
    }
    // Again, of all that go on.
    let of_copy = one.checkpoint(kept()).await.unwrap();
    let again = vm.checkpoint(kept()).await.unwrap();
    original.on().await;
    for count in &mut counts {
        count.on().await;
    }
    for checkpoint in [&of_copy, &again] {
        let copy = pool
            .fork(checkpoint, SpawnOptions::named("copy"))
            .await
            .unwrap();
        let mut count = Count::of(copy.attach(id).await.unwrap());
        count.until(10).await;
        count.on().await;
        copy.destroy().await.unwrap();
    }
    // Each is a command of its own: what is done to one does nothing to the others.
    one.kill_command(id).await.unwrap();
    original.on().await;
    counts[1].on().await;
    for vm in [vm, one, two] {
        vm.destroy().await.unwrap();
    }
    pool.close().await;
}

/// Returns the lines of all commands whose output differs between clones.
async fn own_lines(backend: &Backend, vm: &VmHandle) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for command in unique(backend) {
        let argv: Vec<String> = command.iter().map(ToString::to_string).collect();
        let output = vm.exec(argv).await.unwrap();
        assert!(output.status.success(), "{output:?}");
        let printed = output.stdout.split(|byte| *byte == b'\n');
        lines.extend(printed.filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
    }
    lines
}

/// Adds one to a number that the guest remembers, and returns it.
async fn number(backend: &Backend, vm: &VmHandle) -> u64 {
    let script = "n=$(($(cat /tmp/n 2>/dev/null)+1)); echo $n | tee /tmp/n";
    let command: &[&str] = match backend.launcher.vmm().kind == firecracker::KIND {
        true => &["counter"],
        false => &["sh", "-c", script],
    };
    let printed = vm.exec(command).await.unwrap().stdout;
    String::from_utf8(printed).unwrap().trim().parse().unwrap()
}

async fn clock(backend: &Backend, vm: &VmHandle) -> f64 {
    let command: &[&str] = match backend.launcher.vmm().kind == firecracker::KIND {
        true => &["clock"],
        false => &["date", "+%s"],
    };
    let printed = vm.exec(command).await.unwrap().stdout;
    String::from_utf8(printed).unwrap().trim().parse().unwrap()
}

async fn a_vm_and_its_copies_go_on_from_one_state_with_identities_of_their_own(backend: &Backend) {
    let pool = pool(&backend.launcher, 0, &of_vms(4)).await;
    let vm = pool.spawn("original").await.unwrap();
    assert_eq!(number(backend, &vm).await, 1);
    let checkpoint: Snapshot = vm.checkpoint(kept()).await.unwrap();
    assert_eq!(vm.state(), State::Running);
    assert_eq!(number(backend, &vm).await, 2);
    let Kind::Checkpoint(of) = &checkpoint.manifest().kind else {
        panic!("{:?}", checkpoint.manifest());
    };
    assert_eq!(of.of, vm.id().to_string());
    assert_eq!(of.owner, "suite");

    let one = pool
        .fork(&checkpoint, SpawnOptions::named("one"))
        .await
        .unwrap();
    // A copy can be checkpointed in its turn, and one that is paused is paused afterwards.
    one.pause().await.unwrap();
    let second: Snapshot = one.checkpoint(kept()).await.unwrap();
    assert_eq!(one.state(), State::Paused);
    one.resume().await.unwrap();
    assert_eq!(second.manifest().parent, Some(checkpoint.id()));
    let two = pool
        .fork(&checkpoint, SpawnOptions::named("two"))
        .await
        .unwrap();
    let three = pool
        .fork(&second, SpawnOptions::named("three"))
        .await
        .unwrap();
    assert_eq!(one.origin(), Origin::Restored);
    assert_eq!(number(backend, &vm).await, 3);
    let mut seen = HashSet::new();
    for vm in [&vm, &one, &two, &three] {
        let own = own_lines(backend, vm).await;
        assert_eq!(own[0], vm.name().as_bytes());
        for line in own {
            assert!(seen.insert(line.clone()), "{line:?} is another one's, too");
        }
    }
    for copy in [one, two, three] {
        assert_eq!(number(backend, &copy).await, 2);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let told = clock(backend, &copy).await;
        assert!(
            (told - now).abs() < 5.0,
            "its clock says {told}, and it is {now}"
        );
        copy.destroy().await.unwrap();
    }
    vm.destroy().await.unwrap();
    let ids = [checkpoint.id(), second.id()];
    drop((checkpoint, second));
    // No pool deletes them, and their owner does.
    pool.refresh().await.unwrap();
    pool.close().await;
    let store = backend.launcher.snapshots();
    assert_eq!(store.checkpoints().unwrap().len(), 2);
    for id in ids {
        store.delete_checkpoint(id, "suite").unwrap();
    }
}

async fn a_copy_takes_room_like_any_vm_and_is_refused_by_a_closed_pool(backend: &Backend) {
    let pool = pool(&backend.launcher, 0, &of_vms(1)).await;
    let vm = pool.spawn("original").await.unwrap();
    let checkpoint: Snapshot = vm.checkpoint(kept()).await.unwrap();
    let impatient = || SpawnOptions::named("copy").with_patience(Duration::from_millis(50));
    let error = pool.fork(&checkpoint, impatient()).await.unwrap_err();
    assert!(matches!(error, SpawnError::PoolExhausted { .. }), "{error}");
    vm.destroy().await.unwrap();
    let copy = pool.fork(&checkpoint, impatient()).await.unwrap();
    assert_eq!(pool.stats().leased, 1);
    assert_eq!(pool.vms().len(), 1);
    let again = pool.clone();
    pool.close_with_vms().await;
    assert!(!is_alive(copy.pid()));
    let error = again.fork(&checkpoint, impatient()).await.unwrap_err();
    assert!(matches!(error, SpawnError::Closed), "{error}");
    assert_eq!(again.stats().leased, 0);
    drop((again, copy));
    backend.launcher.hypervisor().dropped_ended().await;
}
