//! The `auditwire` program.

mod cli;

/// Events are allocated on one thread and freed on another, which glibc's allocator serializes at a quarter of all CPU time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
