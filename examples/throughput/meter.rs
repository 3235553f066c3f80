//! What is read off clocks and `/proc`.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What a run came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) records: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// Of `emit`, in nanoseconds; 0 where there is none.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) peak_rss_mib: f64,
    /// Records emitted that did not reach the sink.
    pub(crate) lost: i64,
    /// Anything else a run measures.
    pub(crate) extra: Vec<(String, f64)>,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// CPU seconds for a million records, which is microseconds for one.
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.records as f64
    }

    pub(crate) fn extra(&self, name: &str) -> f64 {
        self.extra.iter().find(|(known, _)| known == name).map_or(f64::NAN, |(_, value)| *value)
    }
}

/// Wall clock and CPU time of this process from a moment on.
pub(crate) struct Meter {
    began: Instant,
    cpu: f64,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu_seconds() }
    }

    pub(crate) fn stop(&self, records: usize) -> Outcome {
        Outcome {
            records: records as u64,
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds() - self.cpu,
            peak_rss_mib: peak_rss_mib("self"),
            ..Outcome::default()
        }
    }
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU time of the children that were waited for. It is counted in ticks of 10 ms.
pub(crate) fn cpu_seconds_of_children() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").context("/proc/self/stat has an unknown form")?.1;
    let ticks: f64 = fields.split(' ').skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// `VmHWM` of a process; 0 once it is gone.
pub(crate) fn peak_rss_mib(process: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    field(&status, "VmHWM:") / 1024.0
}

/// How often the threads of this process but the calling one have given up the CPU to wait.
pub(crate) fn waits_of_other_threads() -> Result<f64> {
    let mut waits = 0.0;
    let own = std::fs::read_link("/proc/thread-self")?;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if own.file_name() != Some(&thread.file_name()) {
            // A thread may end between the listing and here.
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            waits += field(&status, "voluntary_ctxt_switches:");
        }
    }
    Ok(waits)
}

fn field(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// The value below which `part` of the samples lie.
pub(crate) fn percentile(samples: &mut [f64], part: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples.get((last as f64 * part) as usize).copied().unwrap_or(0.0)
}

/// A file as the spool has it, allocated ahead, to append to with a sync each time.
pub(crate) struct SyncedFile {
    file: File,
    end: u64,
}

impl SyncedFile {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let mut file = File::create(folder.join("synced"))?;
        file.write_all(&vec![0; 4 << 20])?;
        file.sync_all()?;
        Ok(Self { file, end: 0 })
    }

    /// Nanoseconds of one write of an event's size and one `fdatasync`.
    pub(crate) fn append(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.file.write_all_at(&[b'x'; 900], self.end)?;
        self.file.sync_data()?;
        self.end += 900;
        Ok(began.elapsed().as_nanos() as f64)
    }
}

/// The machine, in one line.
pub(crate) fn machine(folder: &Path) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown CPU");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut file = SyncedFile::create(folder)?;
    let mut syncs = (0..200).map(|_| file.append()).collect::<Result<Vec<_>>>()?;
    Ok(format!(
        "{cores} cores, {}, Linux {}, fdatasync p50 {:.0} µs, load average {}",
        model.trim_start_matches([' ', '\t', ':']).trim(),
        kernel.trim(),
        percentile(&mut syncs, 0.5) / 1e3,
        load_average(),
    ))
}

/// Others on the machine, over the last minute.
pub(crate) fn load_average() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}

/// Waits for a condition, and says what did not come about.
pub(crate) fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !condition() {
        anyhow::ensure!(began.elapsed() < limit, "{what} did not come about within {limit:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
