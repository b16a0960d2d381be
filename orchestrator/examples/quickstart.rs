//! A command in a fresh VM: `cargo run --release --example quickstart`.

use ironclaw_orchestrator::vm;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    vm::warmup_pool().await?; // optional: the pool is lazy
    let handle = vm::spawn_vm("my-task").await?;
    let out = handle.exec(["uname", "-a"]).await?;
    print!("{}", String::from_utf8_lossy(&out.stdout));
    vm::destroy_vm(handle).await?;
    Ok(())
}
