//! The program of this package as a subprocess: in a folder of its own, with no variables but those of the test, and bounded.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::program::poll;

/// A temporary folder that the program runs in.
pub struct Workplace {
    folder: TempDir,
    runs: AtomicUsize,
}

impl Workplace {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), runs: AtomicUsize::new(0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The program with these arguments. What it keeps lies in the folder, standard input is empty.
    pub fn auditwire<Argument: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = Argument>) -> Command {
        // Long runs may name the program built for release.
        let built = std::env::var_os("TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_auditwire").into());
        let mut command = Command::new(built);
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("AUDITWIRE_DEAD_LETTER_PATH", self.path("dead-letters.jsonl"));
        command
    }

    /// Starts a command; standard output and error go to files, unless they were redirected before.
    pub fn start(&self, command: &mut Command) -> Running {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path(&format!("stdout-{run}")), self.path(&format!("stderr-{run}")));
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Running { child, out, err }
    }

    /// Runs a command to its end.
    pub fn run(&self, command: &mut Command) -> Ended {
        self.start(command).end()
    }
}

/// A program that runs. It is killed when this value is dropped.
pub struct Running {
    pub child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Its standard input, which was asked to be a pipe.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// Waits until standard error has this text, and gives all of it.
    pub fn said(&mut self, text: &str) -> String {
        let said = poll(|| {
            let said = lossy(&self.err);
            let ended = self.child.try_wait().unwrap().is_some();
            (ended || said.contains(text)).then_some(said)
        });
        let said = said.unwrap_or_default();
        assert!(said.contains(text), "{text:?} was not said: {}", lossy(&self.err));
        said
    }

    /// Sends a signal, by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        let status = poll(|| self.child.try_wait().unwrap());
        let (stdout, stderr) = (lossy(&self.out), lossy(&self.err));
        let status = status.unwrap_or_else(|| panic!("it does not end; it said: {stderr}"));
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ended { code: status.code(), stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program left.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Asserts the exit code, and shows what was said if it is another.
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        self
    }

    /// Asserts what was said on standard error.
    pub fn said(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} was not said: {}", self.stderr);
        }
        self
    }

    /// How often a text was said on standard error.
    pub fn times(&self, text: &str) -> usize {
        self.stderr.matches(text).count()
    }
}

fn lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
