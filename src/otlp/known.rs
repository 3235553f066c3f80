//! Runs of members that recur. What follows from an event's class, outcome and severity is half of its attributes, and the same text
//! in many events: it is encoded once, and copied from then on.

use memchr::memmem;

use super::any_value;
use crate::config::Limits;
use crate::record::{Fields, Promoter};

/// Most runs that are kept.
const MOST: usize = 16;
/// Of so many runs that are not known one becomes known, so that events which are all different cost little more for it.
const LEARN_EVERY: u32 = 8;
/// What begins a run, and what stands behind it.
const BEGIN: &str = ",\"class_uid\":";
const BEHIND: &[u8] = b",\"message\":";
/// Longest run.
const LONGEST: usize = 1024;

/// The runs of a destination: they depend on its limits.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    limits: Limits,
    runs: Vec<Run>,
    unknown: u32,
}

/// Members without arrays or objects, in the event itself.
#[derive(Debug, Clone)]
pub(super) struct Run {
    text: Box<str>,
    /// Elements of the body's `KeyValueList`.
    pub(super) pairs: Vec<u8>,
    /// `LogRecord.attributes`, if these are the first.
    pub(super) attributes: Vec<u8>,
    pub(super) count: usize,
    pub(super) fields: Fields,
}

impl Known {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, runs: Vec::new(), unknown: 0 }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The run with which the rest of an event begins.
    pub(super) fn run(&mut self, rest: &str) -> Option<&Run> {
        if !rest.starts_with(BEGIN) {
            return None;
        }
        // Its last value ends where it ends only if another member follows.
        let begins = |run: &Run| rest.strip_prefix(&*run.text).is_some_and(|rest| rest.starts_with(','));
        let at = match self.runs.iter().position(begins) {
            // What occurs often comes to stand in front.
            Some(at) => {
                self.runs.swap(at, at.saturating_sub(1));
                at.saturating_sub(1)
            }
            None => {
                self.unknown = self.unknown.wrapping_add(1);
                if self.unknown % LEARN_EVERY != 1 {
                    return None;
                }
                let run = Run::encode(rest, &self.limits)?;
                self.runs.truncate(MOST - 1);
                self.runs.push(run);
                self.runs.len() - 1
            }
        };
        Some(&self.runs[at])
    }
}

impl Run {
    fn encode(rest: &str, limits: &Limits) -> Option<Self> {
        let end = memmem::find(&rest.as_bytes()[..rest.len().min(LONGEST)], BEHIND)?;
        let text = &rest[..end];
        if text.contains(['{', '[']) {
            return None;
        }
        let (mut pairs, mut attributes) = (Vec::new(), Vec::new());
        let mut promoter = Promoter::new(limits, &mut attributes);
        any_value::members(&format!("{}}}", &text[1..]), &mut promoter, &mut pairs).ok()?;
        let (count, fields) = (promoter.count(), promoter.into_fields());
        Some(Self { text: text.into(), pairs, attributes, count, fields })
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}
