//! What a person sees while events are sent: a bar on a terminal, silence in a pipe; other lines go above the bar.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Clone)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar, if it is wanted and there is a terminal for it.
    pub(crate) fn new(wanted: bool) -> Self {
        let target = if wanted && stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(8)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is well formed");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(125));
        Self(bar)
    }

    pub(crate) fn update(&self, read: u64, outstanding: u64) {
        let elapsed = self.0.elapsed();
        let rate = read as f64 / elapsed.as_secs_f64().max(0.001);
        let (read, rate, outstanding) = (HumanCount(read), HumanCount(rate as u64), HumanCount(outstanding));
        let seconds = elapsed.as_secs();
        self.0.set_message(format!("{read} events · {rate}/s · {outstanding} outstanding · {seconds} s"));
    }

    /// A line on standard error, above the bar if there is one.
    pub(crate) fn say(&self, line: std::fmt::Arguments<'_>) {
        self.0.suspend(|| super::exit::say(line));
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
