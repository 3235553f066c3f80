//! A real program under test: started, watched until it is ready, stopped by its own handle.

use std::fs::{self, File};
use std::io::{Write, stderr};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::PATIENCE;

const POLL: Duration = Duration::from_millis(20);

/// Where `tests/receivers/build` put the programs. Without them, one line says what is skipped: written past the test
/// harness, which would swallow it.
pub fn built() -> Option<PathBuf> {
    static SAID: Once = Once::new();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?.join("receivers");
    if dir.join("otelcol").exists() && dir.join("victoria-logs").exists() {
        return Some(dir);
    }
    SAID.call_once(|| {
        let _ = writeln!(
            stderr(),
            "skipped: tests against a real Collector and VictoriaLogs; tests/receivers/build builds both"
        );
    });
    None
}

/// So many ports of the loopback interface that were free a moment ago, each another.
pub(super) fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

/// How to start a program, again and again.
pub(super) struct Program {
    pub(super) command: Box<dyn Fn() -> Command>,
    /// It is ready when its log has this and its ports answer.
    pub(super) ready: &'static str,
    pub(super) ports: Vec<SocketAddr>,
    pub(super) log: PathBuf,
    child: Option<Child>,
}

/// Why a program did not get ready.
pub(super) enum NotReady {
    /// Somebody else has its port.
    Clash,
    Failed(String),
}

impl Program {
    pub(super) fn new(
        command: impl Fn() -> Command + 'static,
        ready: &'static str,
        ports: Vec<SocketAddr>,
        log: PathBuf,
    ) -> Self {
        Self { command: Box::new(command), ready, ports, log, child: None }
    }

    pub(super) fn start(&mut self) -> Result<(), NotReady> {
        // A log of its own for each start, so that readiness is that of this start.
        let log = File::create(&self.log).unwrap();
        let mut command = (self.command)();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));

        let until = Instant::now() + PATIENCE;
        let ready = loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = child.try_wait().unwrap() {
                break Err(match said.contains("address already in use") {
                    true => NotReady::Clash,
                    false => NotReady::Failed(format!("{command:?} ended with {status}:\n{said}")),
                });
            }
            if said.contains(self.ready) && self.ports.iter().all(|port| TcpStream::connect(port).is_ok()) {
                break Ok(());
            }
            if Instant::now() > until {
                break Err(NotReady::Failed(format!("{command:?} is not ready after {PATIENCE:?}:\n{said}")));
            }
            sleep(POLL);
        };
        self.child = Some(child);
        ready
    }

    /// SIGTERM, and waits for the end.
    pub(super) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = child.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().unwrap().success());
        let until = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                self.child = Some(child);
                panic!("process {pid} does not end; log: {}", self.log.display());
            }
            sleep(POLL);
        }
    }

    /// SIGKILL, as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it on the same ports again, as a client expects it. Another process may have taken one meanwhile, but
    /// not for long.
    pub(super) fn start_again(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.start() {
                Ok(()) => return,
                Err(NotReady::Clash) if Instant::now() < until => self.kill(),
                Err(NotReady::Clash) => panic!("the ports {:?} are taken", self.ports),
                Err(NotReady::Failed(why)) => panic!("{why}"),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a program on free ports; on a clash on others.
pub(super) fn start_on_free_ports<const N: usize>(program: impl Fn([SocketAddr; N]) -> Program) -> Program {
    for _ in 0..10 {
        let mut program = program(free_ports());
        match program.start() {
            Ok(()) => return program,
            Err(NotReady::Clash) => {}
            Err(NotReady::Failed(why)) => panic!("{why}"),
        }
    }
    panic!("no free ports");
}

/// Asks again until there is an answer.
pub fn poll<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Some(answer) => return Some(answer),
            None if Instant::now() > until => return None,
            None => sleep(POLL),
        }
    }
}
